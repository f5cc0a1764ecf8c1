"""Workflows in few words for tests: `doc(a=("Number", dict(value=3)), b=("Add", dict(a="@a")))`."""

from __future__ import annotations

from typing import Any

from graph_engine.workflow import Workflow


def doc(**nodes: tuple[str, dict[str, Any]]) -> Workflow:
    """A text `@node` or `@node.output` is a link."""
    made: dict[str, Any] = {}
    for id, (kind, inputs) in nodes.items():
        made[id] = {"class_type": kind, "inputs": {name: _value(value) for name, value in inputs.items()}}
    return Workflow.from_json(made)


def chain(length: int, *, start: int = 0, step: int = 1) -> Workflow:
    made = {"n0": ("Number", {"value": start})}
    made |= {f"n{i}": ("Add", {"a": f"@n{i - 1}", "b": step}) for i in range(1, length)}
    return doc(**made, end=("Show", {"what": f"@n{length - 1}"}))


def _value(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("@"):
        node, _, output = value[1:].partition(".")
        return [node, int(output) if output.isdecimal() else output or 0]
    return {"__value__": value} if isinstance(value, list) else value
