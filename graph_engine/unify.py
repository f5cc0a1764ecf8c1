"""What type variables stand for: the links into a node settle what its generic outputs carry."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from graph_engine.entry import Constant, Link, NodeEntry
from graph_engine.sockets import ANY
from graph_engine.spec import NodeSpec

__all__ = ["Types", "literal_type", "meet"]


def meet(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    """The types that values of both have in common, most special first; empty when there is none."""
    if ANY in one:
        return other
    if ANY in other:
        return one
    if common := tuple(name for name in one if name in other):
        return common
    for pair in (("INT", "FLOAT"), ("COMBO", "STRING")):
        if one[0] in pair and other[0] in pair:
            return pair[1:]
    return ()


def literal_type(value: Any) -> tuple[str, ...]:
    """The type of a literal that stands for a type variable."""
    for kind, name in ((bool, "BOOLEAN"), (int, "INT"), (float, "FLOAT"), (str, "STRING")):
        if isinstance(value, kind):
            return (name,)
    return (ANY,)


class Types:
    """The types of all outputs of a document, asked for in an order where sources come before consumers."""

    def __init__(self) -> None:
        self._bound: dict[str, dict[str, tuple[str, ...]]] = {}

    def of(self, node: str, spec: NodeSpec, index: int) -> tuple[str, ...]:
        """What output `index` of a node carries: as declared, or what its type variable was bound to."""
        output = spec.outputs[index]
        if output.variable is None:
            return output.types
        return self._bound.get(node, {}).get(output.variable, output.types)

    def bind(
        self, node: str, entry: NodeEntry, spec: NodeSpec, linked: Iterable[tuple[str, tuple[str, ...]]]
    ) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
        """Settle the variables of a node from the types on its links, then from its literals; gives the clashes (field,
        given, wanted).
        """
        bound: dict[str, tuple[str, ...]] = {}
        clashes = []
        literals = [
            (name, literal_type(value))
            for name, value in entry.inputs.items()
            if not isinstance(value, (Link, Constant)) and name in spec.by_name and spec.by_name[name].variable and value is not None
        ]
        for name, given in (*linked, *literals):
            variable = spec.by_name[name].variable
            if variable is None:
                continue
            common = meet(bound[variable], given) if variable in bound else given
            if common:
                bound[variable] = common
            else:
                clashes.append((name, given, bound[variable]))
        self._bound[node] = bound
        return clashes
