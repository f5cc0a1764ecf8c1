"""Saved graphs joined with the node definitions: each node's inputs, widget values and the links that feed it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from graph_engine.editor.fields import DYNAMIC, Field, fields, without_forced
from graph_engine.editor.ids import settle
from graph_engine.editor.saved import INSIDE_IN, INSIDE_OUT, Cable, SavedGraph, SavedNode, SavedSubgraph, read

__all__ = ["BYPASSED", "MUTED", "VIRTUAL", "Graph", "Node", "Subgraph", "build", "whole"]

MUTED, BYPASSED = 2, 4
Face = tuple[list[Field], list[str]]
VIRTUAL = {"Reroute", "Note", "MarkdownNote", "PrimitiveNode"}


@dataclass(slots=True)
class Node:
    """A node of a graph. `feeds` gives for the position of an input the link into it; `definition` is None when the type
    is not known.
    """

    id: str
    type: str
    mode: Any
    title: Any
    properties: Mapping[str, Any]
    saved: list[Any] | None
    inputs: list[Field]
    outputs: list[str]
    definition: Mapping[str, Any] | None
    feeds: dict[int, Cable] = field(default_factory=dict)
    agreed: set[int] = field(default_factory=set)  # positions whose saved input names the link, as the link table does
    values: dict[str, Any] = field(default_factory=dict)
    promoted: dict[int, Any] = field(default_factory=dict)  # of a node that stands for a subgraph: by input, what it sets

    @property
    def virtual(self) -> bool:
        return self.type in VIRTUAL

    def position(self, name: str) -> int | None:
        return next((at for at, entry in enumerate(self.inputs) if entry.name == name), None)


@dataclass(slots=True)
class Graph:
    nodes: dict[str, Node]


@dataclass(slots=True)
class Subgraph(Graph):
    """`entries` are for each input the (node id, position) it feeds; `exits` the link that feeds each output. The list of
    inputs is that of every node which stands for the subgraph. `widgets` and `defaults` belong to inputs that show a
    widget of a node within.
    """

    id: str
    name: str
    inputs: list[Field]
    entries: list[list[tuple[str, int]]]
    exits: list[Cable | None]
    widgets: dict[int, Field] = field(default_factory=dict)
    defaults: dict[int, Any] = field(default_factory=dict)


def build(graph: object, definitions: Mapping[str, Mapping[str, Any]]) -> tuple[Graph, dict[str, Subgraph]]:
    """The root graph and the subgraphs it defines.

    Raises WorkflowError when the JSON is not a saved graph.
    """
    root, saved, last = read(graph)
    settle(root, saved, last)
    faces = {
        id: ([Field(name, type, {}, False) for name, type, _ in entry.inputs], [type for _, type, _ in entry.outputs])
        for id, entry in saved.items()
    }
    subgraphs = {id: _subgraph(entry, faces, definitions) for id, entry in saved.items()}
    return Graph(_nodes(root, faces, definitions)), subgraphs


def _nodes(graph: SavedGraph, faces: Mapping[str, Face], definitions: Mapping[str, Mapping[str, Any]]) -> dict[str, Node]:
    nodes = {entry.id: _node(entry, faces, definitions) for entry in graph.nodes}
    recorded = {
        (entry.id, part.link): part.name or f"#{at}"
        for entry in graph.nodes
        for at, part in enumerate(entry.inputs)
        if part.link is not None
    }
    for cable in graph.cables:
        node = nodes.get(cable.target)
        if node is None:
            continue
        name = recorded.get((cable.target, cable.id))
        at = None if name is None else _named(node, name)
        if name is not None and at is None:
            continue  # it was saved on an input that the node no longer shows
        if at is not None:
            node.feeds[at] = cable
            node.agreed.add(at)
        elif (at := whole(cable.input)) is not None and at < len(node.inputs):
            node.feeds.setdefault(at, cable)
    return nodes


def whole(slot: object) -> int | None:
    """A slot number from JSON, which some programs write as text or with a point."""
    if isinstance(slot, str) and slot.isascii() and slot.isdecimal() and len(slot) < 10:
        return int(slot)
    if isinstance(slot, float) and slot.is_integer():
        slot = int(slot)
    return slot if isinstance(slot, int) and not isinstance(slot, bool) and slot >= 0 else None


def _named(node: Node, name: str) -> int | None:
    """The position of an input by its name, or by its saved position when it has none (a reroute)."""
    at = node.position(name)
    if at is None and name.startswith("#"):
        at = int(name[1:])
        return at if at < len(node.inputs) else None
    return at


def _node(saved: SavedNode, faces: Mapping[str, Face], definitions: Mapping[str, Mapping[str, Any]]) -> Node:
    inputs = [Field(entry.name, entry.type, {}, False) for entry in saved.inputs]
    outputs = saved.outputs
    definition = None if saved.type in VIRTUAL else definitions.get(saved.type)
    if saved.type == "Reroute" and not inputs:
        inputs, outputs = [Field("", "*", {}, False)], outputs or ["*"]
    if saved.type in faces:
        inputs, outputs = faces[saved.type]
        definition = None
    elif definition is not None:
        values = without_forced(definition, saved.values or [])
        declared = fields(definition, values, [entry.name for entry in saved.inputs])
        names = {entry.name for entry in declared}
        gone = tuple(f"{entry.name}." for entry in declared if entry.type in DYNAMIC)  # inputs of a choice not taken
        inputs = declared + [entry for entry in inputs if entry.name not in names and not (gone and entry.name.startswith(gone))]
        outputs = _types(definition.get("output"), outputs)
    node = Node(saved.id, saved.type, saved.mode, saved.title, saved.properties, saved.values, inputs, outputs, definition)
    if definition is not None:
        node.values = {entry.name: entry.value for entry in inputs if entry.widget}
        node.inputs = [entry for entry in inputs if entry.socket]
    return node


def _types(declared: object, saved: list[str]) -> list[str]:
    """Output types: those declared, a list of choices being a COMBO; a generic one may be anything."""
    if not isinstance(declared, (list, tuple)):
        return saved
    types = [entry if isinstance(entry, str) else "COMBO" for entry in declared]
    return ["*" if entry == "COMFY_MATCHTYPE_V3" else entry for entry in types]


def _subgraph(saved: SavedSubgraph, faces: Mapping[str, Face], definitions: Mapping[str, Mapping[str, Any]]) -> Subgraph:
    nodes = _nodes(saved, faces, definitions)
    entries: list[list[tuple[str, int]]] = [[] for _ in saved.inputs]
    for node in nodes.values():
        for at, cable in node.feeds.items():
            slot = whole(cable.output) if cable.origin == INSIDE_IN else None
            if slot is not None and slot < len(entries):
                entries[slot].append((node.id, at))
    for found in entries:
        found.sort(key=lambda end: nodes[end[0]].feeds[end[1]].row)
    leaving = {cable.id: cable for cable in saved.cables if cable.target == INSIDE_OUT}
    exits: list[Cable | None] = []
    for at, (_, _, links) in enumerate(saved.outputs):
        if links is None:  # some programs leave the list away
            links = [cable.id for cable in leaving.values() if whole(cable.input) == at]
        exits.append(next((leaving[id] for id in links if id in leaving), None))
    return Subgraph(nodes, saved.id, saved.name, faces[saved.id][0], entries, exits)
