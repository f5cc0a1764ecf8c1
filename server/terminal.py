"""How a run looks to whoever started it: live progress on a terminal, one JSON object per line when piped."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self, TextIO, TypedDict

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from graph_engine.events import (
    Artifact,
    Event,
    NodeCached,
    NodeDone,
    NodeExpanded,
    NodeFailed,
    NodePreview,
    NodeProgress,
    NodeStarted,
    RunDone,
    RunStarted,
)
from graph_engine.spec import Problem

__all__ = ["JsonLines", "Live", "Viewer", "print_problems", "viewer"]


class _Plain(TypedDict):
    highlight: bool
    soft_wrap: bool


PLAIN: _Plain = {"highlight": False, "soft_wrap": True}  # names and paths as they are, to be copied in one piece


class Viewer(Protocol):
    """Shows the events of a run; used as a context manager around it."""

    def __enter__(self) -> Self: ...
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...
    def show(self, event: Event) -> None: ...


def viewer(*, json: bool) -> Viewer:
    """JSON lines when asked for or when the output is piped, else live progress."""
    return JsonLines(sys.stdout, sys.stderr) if json or not sys.stdout.isatty() else Live(Console())


class JsonLines:
    """Every event as one line of JSON on `out`, previews without their picture; files and texts also in words on `notes`."""

    def __init__(self, out: TextIO, notes: TextIO) -> None:
        self.out, self.notes = out, notes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.out.flush()

    def show(self, event: Event) -> None:
        if isinstance(event, NodePreview):
            return
        self.out.write(event.model_dump_json() + "\n")
        self.out.flush()
        if isinstance(event, (NodeDone, NodeCached)):
            self._announce(event.artifacts)
            for line in _lines(event.ui):
                print(f"    {line}", file=self.notes, flush=True)

    def _announce(self, artifacts: Sequence[Artifact]) -> None:
        for artifact in artifacts:
            if artifact.type == "output":
                print(f"saved {artifact.path}", file=self.notes, flush=True)


class Live:
    """A line per finished node and a bar with step counter and speed per running one."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.titles: dict[str, str] = {}
        self.bars: dict[str, TaskID] = {}
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.progress.stop()

    def show(self, event: Event) -> None:
        match event:
            case RunStarted() | NodeExpanded():
                self.titles.update(event.titles)
            case NodeStarted():
                self.bars[event.node] = self.progress.add_task(self._title(event.node), total=None, speed="")
            case NodeProgress():
                speed = (
                    ""
                    if event.rate is None
                    else f"{event.rate:.2f} steps/s"
                    if event.rate >= 1
                    else f"{1 / max(event.rate, 1e-9):.1f} s/step"
                )
                if event.node in self.bars:
                    self.progress.update(self.bars[event.node], completed=event.step, total=event.steps, speed=speed)
            case NodeCached():
                self._finish(event.node, "[dim]·[/]", "[dim]cached[/]", event.artifacts, event.ui)
            case NodeDone():
                self._finish(event.node, "[green]✓[/]", f"[dim]{event.seconds:.2f} s[/]", event.artifacts, event.ui)
            case NodeFailed():
                self._fail(event)
            case RunDone():
                self._end(event)

    def _title(self, node: str) -> str:
        return escape(self.titles.get(node, node))

    def _drop(self, node: str) -> None:
        if (bar := self.bars.pop(node, None)) is not None:
            self.progress.remove_task(bar)

    def _finish(self, node: str, mark: str, note: str, artifacts: Sequence[Artifact], ui: dict[str, object]) -> None:
        self._drop(node)
        self.console.print(f"{mark} {self._title(node)} {note}", highlight=False)
        for artifact in artifacts:
            self.console.print(f"    {escape(artifact.path)}", style="bold" if artifact.type == "output" else "dim", **PLAIN)
        for line in _lines(ui):
            self.console.print(f"    {escape(line)}", style="cyan", **PLAIN)

    def _fail(self, event: NodeFailed) -> None:
        self._drop(event.node)
        self.console.print(
            f"[red]✗[/] {self._title(event.node)} [dim]({escape(event.class_type)}, node {escape(event.node)})[/]", highlight=False
        )
        self.console.print(f"    {escape(event.message)}", style="red", **PLAIN)
        for name, summary in event.inputs.items():
            self.console.print(f"    {escape(name)} = {escape(summary)}", style="dim", **PLAIN)
        for resident in event.residents:
            self.console.print(f"    {resident.bytes / 2**20:9.1f} MiB  {escape(resident.place)}  {escape(resident.owner)}", style="dim")

    def _end(self, event: RunDone) -> None:
        for node in [*self.bars]:
            self._drop(node)
        style = {"success": "green", "cancelled": "yellow", "error": "red"}[event.status]
        counts = f"{event.executed} run, {event.cached} cached, {event.seconds:.2f} s"
        self.console.print(f"[{style}]{event.status}[/] [dim]{counts}[/]", highlight=False)


def _lines(ui: dict[str, object]) -> list[str]:
    """What a node says in words."""
    texts = ui.get("text", ())
    return [line for text in (texts if isinstance(texts, (list, tuple)) else (texts,)) for line in str(text).splitlines()]


def _speed(rate: float | None) -> str:
    if rate is None:
        return ""
    return f"{rate:.2f} steps/s" if rate >= 1 else f"{1 / max(rate, 1e-9):.1f} s/step"


def print_problems(problems: Sequence[Problem], console: Console) -> None:
    """Print every finding with what came, what is wanted and the hint."""
    for problem in problems:
        place = "" if problem.node is None else f"{problem.node} {problem.title or problem.class_type or ''}".strip()
        where = ".".join(part for part in (place, problem.field) if part)
        console.print(
            f"[red]✗[/] [bold]{escape(where or 'workflow')}[/] {escape(problem.message)} [dim]({problem.code})[/]",
            highlight=False,
            soft_wrap=True,
        )
        if problem.wanted is not None:
            console.print(f"    wanted: {escape(_short(problem.wanted))}", style="dim", **PLAIN)
        if problem.hint:
            console.print(f"    hint: {escape(problem.hint)}", style="cyan", **PLAIN)


def _short(value: object, limit: int = 300) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
