"""What is wrong with one node of a document: its literals, its links, what is missing, what the node objects to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graph_engine.entry import Constant, Link
from graph_engine.errors import GraphError
from graph_engine.files import Folders
from graph_engine.finding import At
from graph_engine.hints import Hints
from graph_engine.linking import Linking
from graph_engine.migrate import is_old
from graph_engine.registry import Registry
from graph_engine.spec import InputSpec, NodeSpec, Problem
from graph_engine.suggest import nearest
from graph_engine.workflow import Workflow

__all__ = ["NodeCheck"]

# after these a node's own check could do nothing with the value
_UNUSABLE = ("wrong_type", "socket_needs_link", "bad_link", "value_too_short", "value_too_long")


class NodeCheck:
    """Checks the nodes of one document, sources first, so that the types of generic outputs are known."""

    def __init__(
        self,
        workflow: Workflow,
        specs: Mapping[str, NodeSpec],
        folders: Folders | None,
        registry: Registry | None,
        hints: Hints,
        order: Sequence[str],
    ) -> None:
        self._nodes = workflow.nodes
        self._specs = specs
        self._folders = folders
        self._registry = registry
        self._hints = hints
        self._places = {id: place for place, id in enumerate(order)}
        self._linking = Linking(workflow, specs, hints, self._places)
        self._choices: dict[tuple[str, tuple[tuple[str, str], ...]], tuple[str, ...]] = {}

    def __call__(self, id: str) -> list[Problem]:
        entry = self._nodes[id]
        spec = self._specs.get(entry.class_type)
        if spec is None:
            return []  # told already
        at = At(id, entry, spec)
        problems: list[Problem] = []
        if entry.version is not None and entry.version > spec.version:
            problems.append(_newer(at))
        old = is_old(entry, spec)  # only its class could say what these inputs mean now
        linked: list[tuple[str, tuple[str, ...]]] = []
        for name, value in entry.inputs.items():
            wanted = spec.by_name.get(name)
            if type(value) is Link:
                given = self._linking.carried(at, name, value, problems)
                if wanted is None:
                    if not old:
                        problems.append(self._unknown_input(at, name, value))
                elif given is not None:
                    linked.append((name, given))
                    if (problem := self._linking.mismatch(at, wanted, value, given)) is not None:
                        problems.append(problem)
            elif old or type(value) is Constant:
                continue
            elif wanted is None:
                if (meant := _misspelt(at, name)) is not None:
                    problems.append(self._unknown_input(at, name, value, meant))
            elif (problem := self._literal(at, wanted, value)) is not None:
                problems.append(problem)
        if old:
            return problems
        problems += [self._missing(at, wanted) for wanted in spec.inputs if wanted.required and wanted.name not in entry.inputs]
        if spec.generic:
            problems += self._linking.settle(at, linked)
        if spec.checks and self._registry is not None:
            problems += self._objections(at, self._registry, problems)
        return problems

    def _literal(self, at: At, wanted: InputSpec, value: Any) -> Problem | None:
        choices = self._listed(wanted)
        objection = wanted.refuse(value, choices)
        if objection is None:
            return None
        code, message, want = objection
        if code == "value_not_in_list":
            if self._folders is not None and wanted.folder is not None and isinstance(value, str):
                try:
                    if self._folders.find(wanted.folder, value, wanted.embedded) is not None:
                        return None  # another spelling of a file that is there
                except GraphError as error:
                    message = str(error)
            hint = self._hints.choice(value, (wanted.choices if choices is None else choices) or ())
            if hint is None and self._folders is not None and wanted.folder is not None:
                hint = f"put files into {self._folders.places(wanted.folder)[0]}"
        elif code == "socket_needs_link" and isinstance(value, list):
            code, hint = "bad_link", 'a link is written ["id", output]'
        elif code == "socket_needs_link":
            hint = self._hints.fitting(at.id, wanted, self._places)
        elif wanted.list and not isinstance(value, list):
            hint = 'a list is written {"__value__": [...]}'
        elif isinstance(value, str) and {"INT", "FLOAT"} & set(wanted.types) and _is_number(value):
            hint = f"write {value.strip()} without quotes"
        else:
            hint = self._hints.value(wanted)
        return at.problem(code, message, wanted.name, got=value, wanted=want, hint=hint)

    def _listed(self, wanted: InputSpec) -> tuple[str, ...] | None:
        """The files that an input offers, looked up once; None when it is not a file or there are no folders."""
        if wanted.folder is None or self._folders is None:
            return None
        place = wanted.folder, tuple(wanted.embedded.items())
        if place not in self._choices:
            self._choices[place] = self._folders.choices(wanted)
        return self._choices[place]

    def _missing(self, at: At, wanted: InputSpec) -> Problem:
        extra = [name for name in at.entry.inputs if name not in at.spec.by_name]
        if (near := nearest(wanted.name, extra, cutoff=0.75, parts=False)) is not None:
            hint: str | None = f"{near!r} is not an input; did you mean {wanted.name!r}?"
        elif wanted.is_widget:
            choices = self._listed(wanted)
            hint = self._hints.value(wanted) if choices is None else self._hints.listed(choices, "choices")
        else:
            hint = self._hints.fitting(at.id, wanted, self._places)
        called = " or ".join(wanted.types)
        message = "required, but not given"
        return at.problem("required_input_missing", message, wanted.name, wanted=called, hint=hint)

    def _unknown_input(self, at: At, name: str, value: Any, meant: str | None = None) -> Problem:
        known = list(at.spec.by_name)
        among = f"inputs of {at.entry.class_type}"
        hint = f"did you mean {meant!r}?" if meant else self._hints.name(name, known, among) or "it has no inputs"
        message = f"{at.entry.class_type} has no input {name!r}"
        return at.problem("unknown_input", message, name, got=value, wanted=known, hint=hint)

    def _objections(self, at: At, registry: Registry, problems: Sequence[Problem]) -> list[Problem]:
        """What the node's own `check` says; an input whose value is unusable is not shown to it."""
        unusable = {problem.field for problem in problems if problem.code in _UNUSABLE}
        given = at.entry.inputs
        inputs: dict[str, Any] = {}
        for name, wanted in at.spec.by_name.items():
            if name in unusable or (wanted.required and name not in given):
                continue
            value = given.get(name, wanted.default)
            if isinstance(value, Link):
                if (linked := self._linking.shown(value)) is not None:
                    inputs[name] = linked
            else:
                inputs[name] = value.value if isinstance(value, Constant) else wanted.canonical(value)
        try:
            said = [each if isinstance(each, tuple) else (None, each) for each in registry[at.spec.type].check(inputs)]
            return [at.problem("custom", str(message), field, got=given.get(field) if field else None) for field, message in said]
        except Exception as error:
            if problems:
                return []  # it may well stumble over what is listed already
            message = f"the node's own check failed: {type(error).__name__}: {error}"
            return [at.problem("check_failed", message, hint="this is a mistake in the node")]


def _misspelt(at: At, name: str) -> str | None:
    """The optional input that an extra literal most likely means: it is near, and not given otherwise."""
    given = at.entry.inputs
    absent = [each.name for each in at.spec.inputs if not each.required and each.name not in given]
    return nearest(name, absent, cutoff=0.75, parts=False) if absent else None


def _newer(at: At) -> Problem:
    message = f"saved with version {at.entry.version} of {at.spec.type}, but version {at.spec.version} is installed"
    package = f"the package {at.spec.package!r}" if at.spec.package else "the package that has it"
    return at.problem("bad_version", message, "_meta.version", got=at.entry.version, wanted=at.spec.version, hint=f"update {package}")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return len(text) < 40
