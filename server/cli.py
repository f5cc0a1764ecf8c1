"""The `latentgraph` command.

Exit codes: 0 done; 1 a node failed; 2 the command or a file could not be read; 3 the workflow is not valid; 130 cancelled.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape

from graph_engine import Catalogue, Folders, Registry, Workflow, WorkflowError, validate
from graph_engine.errors import GraphError
from graph_engine.schema import json_schema
from graph_engine.suggest import did_you_mean
from graph_engine.validate import needs_classes, notes, objections
from server.commands import Pickles, Token, cancel, given, queue, read_pickles, serve, status
from server.exits import CANCELLED, DONE, FAILED, INVALID, USAGE
from server.listing import details, is_called, listing
from server.settings import ClientSettings, Settings
from server.sweep import variants
from server.terminal import print_problems, viewer

__all__ = ["app", "main"]

app = App(
    name="latentgraph",
    help="A typed node-graph engine for editing images with diffusion models.\n\n"
    "Exit codes: 0 done, 1 a node failed, 2 the command or a file could not be read, 3 the workflow is not valid, 130 cancelled.",
    version_flags=["--version"],
)
for each in (serve, status, queue, cancel):
    app.command(each)

_UNREADABLE = {
    "no_file",
    "no_workflow",
    "bad_json",
    "bad_document",
    "editor_format",
    "editor_graph",
    "bad_address",
    "no_such_node",
    "ambiguous_node",
}
_out, _notes = Console(), Console(stderr=True)


def main() -> None:
    """Run the command line and leave with its exit code."""
    try:
        code = app(with_listen(sys.argv[1:]), exit_on_error=False, print_error=True)
    except KeyboardInterrupt:
        code = CANCELLED
    except Exception as error:
        code = _explain(error)
    sys.exit(code if isinstance(code, int) else DONE)


def with_listen(words: list[str]) -> list[str]:
    """The command line with `--listen` alone, as people know it from elsewhere, meaning every address of this machine."""
    made = list(words)
    if "--listen" in made:
        after = made.index("--listen") + 1
        if after == len(made) or made[after].startswith("-"):
            made.insert(after, "0.0.0.0")
    return made


def _explain(error: Exception) -> int:
    if isinstance(error, CycloptsError):  # already printed
        return USAGE
    if isinstance(error, WorkflowError):
        print_problems(error.problems, _notes)
        return USAGE if any(problem.code in _UNREADABLE for problem in error.problems) else INVALID
    if isinstance(error, ValidationError):
        for each in error.errors():
            _notes.print(f"[red]✗[/] {escape('.'.join(map(str, each['loc'])))}: {escape(each['msg'])}", highlight=False, soft_wrap=True)
        return USAGE
    if isinstance(error, (OSError, ValueError, GraphError)):
        _notes.print(f"[red]✗[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        return USAGE
    raise error


Overrides = Annotated[
    list[str] | None,
    Parameter(
        name="--set", negative=(), help="node.input=value, the node by id, title or type; the value as JSON or plain text. Repeatable."
    ),
]
Sweeps = Annotated[
    list[str] | None,
    Parameter(
        name="--sweep",
        negative=(),
        help="node.input=a,b,c: one run for each value, or combination of several sweeps. Repeatable.",
    ),
]


@app.command
def run(
    file: Path,
    *,
    set_: Overrides = None,
    sweep: Sweeps = None,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"], help="where pictures go; ./output when not given")] = None,
    json_: Annotated[bool, Parameter(name="--json", negative=(), help="print events as JSON lines also on a terminal")] = False,
    device: Annotated[str | None, Parameter(help="auto, cpu, cuda, cuda:1, mps")] = None,
    cache_dir: Annotated[Path | None, Parameter(help="keep results on disk, for the next process")] = None,
    debug: Annotated[bool, Parameter(negative=(), help="check that no node writes into its inputs, and print tracebacks")] = False,
    allow_pickle: Pickles = False,
    server: Annotated[str | None, Parameter(help="run it on this server, such as http://127.0.0.1:8188, and fetch what it makes")] = None,
    token: Token = None,
) -> int:
    """Run a workflow, here or on a server.

    Parameters
    ----------
    file
        A workflow as JSON, for the API or as an editor saves it, or a picture that carries one (as SaveImage writes it).
    """
    read_pickles(allow_pickle)
    settings = Settings()
    folders = _folders(settings, output)
    specs = Catalogue.load().specs
    documents = [*variants(Workflow.load(file, specs, folders), set_ or [], sweep or [], specs)]
    if server is not None:
        from server.remote import run_all

        return run_all(documents, specs, folders, ClientSettings(**given(server=server, token=token)), json=json_, debug=debug)
    for _, document in documents:  # before torch is loaded, and before the first of many runs
        if problems := objections(document, specs, folders):
            raise WorkflowError(problems)

    from graph_engine.engine import Engine  # brings the node packages, and torch with them

    screen = viewer(json=json_)
    with Engine(device=device or settings.device, folders=folders, cache_dir=cache_dir or settings.cache_dir, debug=debug) as engine:
        code = DONE
        for label, document in documents:
            if label:
                _notes.print(f"[bold]{escape(label)}[/]", highlight=False, soft_wrap=True)
            with screen:
                result = engine.run(document, on_event=screen.show)
            if debug:
                for failure in result.failures:
                    _notes.print("".join(failure.traceback), style="dim", markup=False, highlight=False)
            if result.status == "cancelled":
                return CANCELLED
            code = max(code, DONE if result.status == "success" else FAILED)
    return code


@app.command(name="validate")
def validate_(file: Path, *, set_: Overrides = None) -> int:
    """List every problem of a workflow; nothing runs."""
    specs = Catalogue.load().specs
    folders = _folders(Settings(), None)
    [(_, workflow)] = variants(Workflow.load(file, specs, folders), set_ or [], [], specs)
    registry = Registry.discover() if needs_classes(workflow, specs) else None
    if problems := validate(workflow, specs, folders, registry=registry):
        raise WorkflowError(problems)
    for note in notes(workflow, specs):
        _out.print(f"[yellow]![/] {escape(str(note))}", highlight=False, soft_wrap=True)
    _out.print(f"[green]✓[/] {escape(str(file))}: {len(workflow.nodes)} nodes, no problems", highlight=False, soft_wrap=True)
    return DONE


@app.command
def nodes(name: str | None = None, *, json_: Annotated[bool, Parameter(name="--json", negative=())] = False) -> int:
    """List the node types by category, or those that a word is in the name of, or show one with its inputs and outputs."""
    specs = Catalogue.load().specs
    if name is not None and name in specs:
        if json_:
            _print_json(specs[name].model_dump(mode="json"))
        else:
            _out.print(details(specs[name], _folders(Settings(), None)))
        return DONE
    found = [spec for spec in specs.values() if name is None or is_called(spec, name)]
    if not found:
        raise ValueError(f"there is no node type {name!r}" + (f"; {hint}" if (hint := did_you_mean(name or "", specs)) else ""))
    if json_:
        _print_json([spec.model_dump(mode="json") for spec in found])
    else:
        _out.print(listing(found))
    return DONE


@app.command
def schema(*, output: Annotated[Path | None, Parameter(name=["--output", "-o"], help="a file; else printed")] = None) -> int:
    """Print the JSON Schema of a workflow with all node types, so that an editor completes and checks JSON."""
    text = json.dumps(json_schema(Catalogue.load().specs), indent=2)
    if output is None:
        sys.stdout.write(text + "\n")
    else:
        output.write_text(text + "\n", encoding="utf-8")
    return DONE


@app.command
def doctor() -> int:
    """Show versions, devices, memory and the models found; exits 1 when something is broken."""
    from server.doctor import examine

    settings = Settings()
    return examine(_out, settings, _folders(settings, None))


def _folders(settings: Settings, output: Path | None) -> Folders:
    return Folders(settings.home, {} if output is None else {"output": [output.absolute()]})


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
