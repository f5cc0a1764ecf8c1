"""Following links back to the nodes that run: through reroutes, bypassed nodes and the walls of subgraphs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from graph_engine.editor.graph import BYPASSED, MUTED, Graph, Node, Subgraph, whole
from graph_engine.editor.promotion import value
from graph_engine.editor.saved import INSIDE_IN, fault

__all__ = ["Held", "Output", "Scope", "resolve"]


@dataclass(frozen=True, slots=True)
class Output:
    """An output of a node that runs, by its id in the document."""

    id: str
    slot: Any


@dataclass(frozen=True, slots=True)
class Held:
    """The value of a promoted widget."""

    value: Any


@dataclass(slots=True)
class Scope:
    """A graph in use: the root, or a subgraph with the node that stands for it."""

    graph: Graph
    prefix: str = ""
    instance: Node | None = None
    parent: Scope | None = None
    inner: dict[str, Scope] = field(default_factory=dict)

    def id(self, node: Node) -> str:
        return f"{self.prefix}{node.id}"

    def enter(self, node: Node, subgraph: Subgraph) -> Scope:
        if node.id not in self.inner:
            self.inner[node.id] = Scope(subgraph, f"{self.id(node)}:", node, self)
        return self.inner[node.id]


def resolve(scope: Scope, node: Node, at: int, subgraphs: Mapping[str, Subgraph]) -> Output | Held | None:
    """What feeds an input (section 5.6): an output, a promoted widget's value, or None when nothing does.

    Raises WorkflowError when links go round in a circle without a node that runs, or come from no node.
    """
    wanted = node.inputs[at].type
    seen: set[tuple[str, str, int]] = set()
    place, cable = scope, node.feeds.get(at)
    while cable is not None:
        if cable.origin == INSIDE_IN and place.instance is not None and place.parent is not None:
            holder, slot = place.instance, whole(cable.output)
            subgraph = subgraphs[holder.type]
            place = place.parent
            if slot is None:
                return None
            _visit(seen, place, holder, slot, "input")
            if (following := holder.feeds.get(slot)) is None:
                return Held(value(holder, slot, subgraph)) if slot in subgraph.widgets else None
            cable = following
            continue
        origin = place.graph.nodes.get(cable.origin)
        if origin is None:
            raise fault(
                "a link starts at a node of its graph",
                f"the link {cable.id} comes from node {cable.origin}, which is not there",
                node=scope.id(node),
                field=node.inputs[at].name,
            )
        slot = whole(cable.output)
        if origin.mode == MUTED:
            return None
        inner = subgraphs.get(origin.type)
        if inner is not None or origin.mode == BYPASSED or origin.virtual:
            if slot is None:
                return None
            _visit(seen, place, origin, slot, "output")
        if origin.mode == BYPASSED:
            through = _bypass(origin, slot or 0, wanted)
            cable = None if through is None else origin.feeds.get(through)
        elif inner is not None:
            place = place.enter(origin, inner)
            cable = inner.exits[slot] if slot is not None and slot < len(inner.exits) else None
        elif origin.virtual:
            cable = origin.feeds.get(slot or 0)
        else:
            return Output(place.id(origin), cable.output)
    return None


def _visit(seen: set[tuple[str, str, int]], place: Scope, node: Node, slot: int, side: str) -> None:
    step = (f"{side} {place.prefix}", node.id, slot)
    if step in seen:
        raise fault(
            "links may not go round in a circle",
            f"its {side} {slot} leads back to itself through reroutes and bypassed nodes",
            node=place.id(node),
            class_type=node.type,
        )
    seen.add(step)


def _bypass(node: Node, slot: int, wanted: str) -> int | None:
    """The input that a bypassed node hands on as its output `slot`."""
    types = [entry.type for entry in node.inputs]
    if not types:
        return None
    if _open(wanted):
        return slot if slot < len(types) else 0
    made = node.outputs[slot] if slot < len(node.outputs) else ""
    if slot < len(types) and _fits(types[slot], made) and _fits(types[slot], wanted):
        return slot
    if wanted in types:
        return types.index(wanted)
    return next((at for at, type in enumerate(types) if _fits(type, wanted)), None)


def _open(type: str) -> bool:
    return type in ("", "*")


def _fits(a: str, b: str) -> bool:
    """Whether two link types may meet: equal in some alternative, case aside, or either open (section 3.2)."""
    if _open(a) or _open(b):
        return True
    return not {part.strip() for part in a.lower().split(",")}.isdisjoint(part.strip() for part in b.lower().split(","))
