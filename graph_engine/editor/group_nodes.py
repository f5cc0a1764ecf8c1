"""Group nodes, by which the editor folded nodes into one before it had subgraphs: rewritten as subgraphs.

`extra.groupNodes` holds each group once: its nodes, links between them by position, and which outputs are used outside as well. A node that
stands for a group has one list with the widget values of all nodes within, sockets for the inputs that no link within feeds, and outputs
that no link within uses. Each such node gets a subgraph of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from graph_engine.editor.fields import walk, without_forced
from graph_engine.editor.graph import whole
from graph_engine.editor.literal import MISSING
from graph_engine.editor.saved import INSIDE_IN, INSIDE_OUT, fault

__all__ = ["groups", "without_groups"]

_PREFIXES = ("workflow>", "workflow/")  # the second is the older one
_BUTTON = "image"  # what the button of an upload is saved with
Groups = Mapping[str, Mapping[str, Any]]


def groups(graph: object) -> Groups:
    """The groups of a saved graph by name; whatever is malformed is passed over."""
    extra = graph.get("extra") if isinstance(graph, Mapping) else None
    found = extra.get("groupNodes") if isinstance(extra, Mapping) else None
    return {name: group for name, group in found.items() if isinstance(group, Mapping)} if isinstance(found, Mapping) else {}


def without_groups(graph: Mapping[str, Any], definitions: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """The saved graph with a subgraph in place of each group. Raises WorkflowError, naming the node, where links fit no input within."""
    known = groups(graph)
    if not known:
        return graph
    told = graph.get("definitions")
    inner = told.get("subgraphs") if isinstance(told, Mapping) else None
    made: list[dict[str, Any]] = []

    def opened(holder: Any) -> Any:
        nodes = holder.get("nodes") if isinstance(holder, Mapping) else None
        if not isinstance(nodes, (list, tuple)):
            return holder
        return {**holder, "nodes": [_opened(node, known, definitions, made) for node in nodes]}

    subgraphs = [opened(each) for each in inner] if isinstance(inner, (list, tuple)) else []
    root = opened(graph)
    return {**root, "definitions": {**(told if isinstance(told, Mapping) else {}), "subgraphs": [*subgraphs, *made]}}


def _opened(node: Any, known: Groups, definitions: Mapping[str, Mapping[str, Any]], made: list[dict[str, Any]]) -> Any:
    """The node, or where it stands for a group, one that stands for a new subgraph."""
    type = node.get("type") if isinstance(node, Mapping) else None
    name = next((type[len(prefix) :] for prefix in _PREFIXES if type.startswith(prefix)), None) if isinstance(type, str) else None
    if name is None or name not in known:
        return node
    values = node.get("widgets_values")
    opening = _Group(known[name], definitions, iter(values if isinstance(values, (list, tuple)) else ()))
    id = f"{type} {len(made)}"
    inputs = opening.faced(node)
    made.append(opening.subgraph(id, name))
    return {**node, "type": id, "inputs": inputs, "widgets_values": None}


@dataclass(slots=True)
class _Part:
    """A node within a group: its sockets in their order, and the widgets that were turned into inputs after them."""

    node: Mapping[str, Any]
    sockets: list[str]
    turned: list[str]
    outputs: list[str]
    values: list[tuple[str, Any]]  # what each saved value belongs to, and the value

    def name(self, slot: int) -> str | None:
        names = [*self.sockets, *self.turned]
        return names[slot] if slot < len(names) else None


@dataclass(slots=True)
class _Values:
    """A node's own values where a widget was turned into an input, the next of the group's list for all others."""

    own: Iterator[Any]
    shared: Iterator[Any]
    turned: Sequence[str]
    last: str = ""
    taken: list[tuple[str, Any]] = field(default_factory=list)

    def take(self, name: str, aside: Any = None) -> Any:
        if name or aside == _BUTTON:
            self.last = name
        own = next(self.own, MISSING)
        value = own if self.last in self.turned else next(self.shared, own)
        self.taken.append((self.last, value))
        return value


class _Group:
    """One group being opened for one node that stands for it."""

    def __init__(self, group: Mapping[str, Any], definitions: Mapping[str, Mapping[str, Any]], values: Iterator[Any]) -> None:
        self._config = group.get("config")
        self._links = _rows(group.get("links"), 4)  # those that lead out have no node at one end
        self._fed = {(target, slot) for _, _, target, slot in self._links}
        self._used = {(source, slot) for source, slot, _, _ in self._links} - {(at, slot) for at, slot in _rows(group.get("external"), 2)}
        nodes = group.get("nodes")
        self._parts = [self._part(node, definitions, values) for node in (nodes if isinstance(nodes, (list, tuple)) else ())]
        # inputs of nodes within as (node, name): the group's sockets in their order, its widgets by what it calls them
        self._sockets: list[tuple[int, str]] = []
        self._widgets: dict[str, tuple[int, str]] = {}
        self._show_inputs(values)
        self._faces: list[tuple[str, int, str]] = []

    def _part(self, node: Any, definitions: Mapping[str, Mapping[str, Any]], values: Iterator[Any]) -> _Part:
        node = node if isinstance(node, Mapping) else {}
        type = node.get("type")
        saved, own = _objects(node.get("inputs")), node.get("widgets_values")
        own = list(own) if isinstance(own, (list, tuple)) else []
        outputs = [str(each.get("type", "*")) for each in _objects(node.get("outputs"))]
        if type in ("Note", "MarkdownNote"):
            return _Part(node, [], [], [], [("", value) for value in own])
        if type == "Reroute":
            return _Part(node, [""], [], outputs or ["*"], [])
        turned = [str(each.get("name")) for each in saved if isinstance(each.get("widget"), Mapping)]
        definition = definitions.get(type) if isinstance(type, str) else None
        if definition is None:
            sockets = [str(each.get("name")) for each in saved if not isinstance(each.get("widget"), Mapping)]
            return _Part(node, sockets, turned, outputs, [("value", next(values, value)) for value in own])
        taker = _Values(iter(without_forced(definition, own)), values, turned)
        found = list(walk(definition, taker, [str(each.get("name")) for each in saved]))
        widgets = {each.name for each in found if each.widget}
        declared = definition.get("output")
        return _Part(
            node,
            [each.name for each in found if not each.widget],
            [name for name in turned if name in widgets],
            [str(each) for each in declared] if isinstance(declared, (list, tuple)) else outputs,
            taker.taken,
        )

    def _show_inputs(self, values: Iterator[Any]) -> None:
        """Inputs go by their own names, preceded by the node's title or type where two are called alike; turned widgets come last."""
        seen: dict[str, int] = {}

        def named(at: int, name: str) -> str:
            node = self._parts[at].node
            label = next((each.get("label") for each in _objects(node.get("inputs")) if each.get("name") == name), None)
            told = _at(self._config, at, "input", name, "name")
            found = key = told if isinstance(told, str) else label if isinstance(label, str) else name
            title = node.get("title")
            if (node.get("type") == "PrimitiveNode" and title) or found in seen:
                found = key = f"{title or node.get('type')} {name}"
                if found in seen:
                    found = f"{title or node.get('type')} {seen[found]} {name}"
            seen[key] = seen.get(key, 1) + 1
            return found

        for at, part in enumerate(self._parts):
            for name in dict.fromkeys(owner for owner, _ in part.values if owner and owner not in part.turned):
                self._widgets[named(at, name)] = (at, name)
            for slot, name in enumerate(part.sockets):
                if (at, slot) not in self._fed:
                    named(at, name)
                    if _at(self._config, at, "input", name, "visible") is not False:
                        self._sockets.append((at, name))
        for at, part in enumerate(self._parts):
            for slot, name in enumerate(part.turned, len(part.sockets)):
                if (at, slot) not in self._fed:
                    self._widgets[named(at, name)] = (at, name)
                    part.values = [(owner, next(values, value) if owner == name else value) for owner, value in part.values]

    def faced(self, node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """The inputs of a node that stands for the group, each under a name of its own; notes what they feed within."""
        found: list[Mapping[str, Any]] = []
        sockets = iter(self._sockets)
        for entry in _objects(node.get("inputs")):
            if isinstance(entry.get("widget"), Mapping):
                end = self._widgets.get(str(entry.get("name")))
            else:
                end = next(sockets, None)
            if end is None:
                if entry.get("link") is not None:
                    message = f"nothing within {node.get('type')} has the input {entry.get('name')}"
                    raise fault("a link ends at an input of a node", message, node=str(node.get("id")))
                continue
            name = f"{entry.get('name')} {len(self._faces)}"
            self._faces.append((name, *end))
            found.append({**entry, "name": name})
        return found

    def subgraph(self, id: str, name: str) -> dict[str, Any]:
        """The group as a subgraph in the editor's format."""
        cables: list[dict[str, Any]] = []
        feeds: dict[tuple[int, str], int] = {}

        def cable(origin: Any, slot: Any, target: Any, into: Any) -> int:
            cables.append({"id": len(cables) + 1, "origin_id": origin, "origin_slot": slot, "target_id": target, "target_slot": into})
            return len(cables)

        for source, slot, target, into in self._links:
            if max(source, target) >= len(self._parts) or (inner := self._parts[target].name(into)) is None:
                raise fault("a link ends at an input of a node", f"the group {name!r} has the link {[source, slot, target, into]}")
            feeds[target, inner] = cable(source, slot, target, into)
        inputs = []
        for at, (shown, target, inner) in enumerate(self._faces):
            feeds[target, inner] = cable(INSIDE_IN, at, target, 0)
            inputs.append({"name": shown, "type": "*", "linkIds": [feeds[target, inner]]})
        outputs: list[dict[str, Any]] = []
        for at, part in enumerate(self._parts):
            for slot, type in enumerate(part.outputs):
                shown = _at(self._config, at, "output", slot, "visible")
                if shown is True or (shown is None and (at, slot) not in self._used):
                    outputs.append({"name": type, "type": type, "linkIds": [cable(at, slot, INSIDE_OUT, len(outputs))]})
        nodes = [_inner(at, part, feeds) for at, part in enumerate(self._parts)]
        return {"id": id, "name": name, "nodes": nodes, "links": cables, "inputs": inputs, "outputs": outputs}


def _inner(at: int, part: _Part, feeds: Mapping[tuple[int, str], int]) -> dict[str, Any]:
    """A node within as it stands in the subgraph: with an id, its values, and the links into it."""
    saved = {str(each.get("name")): each for each in _objects(part.node.get("inputs"))}
    names = dict.fromkeys((*saved, *(name for where, name in feeds if where == at)))
    inputs = [{"type": "*", **saved.get(name, {}), "name": name, "link": feeds.get((at, name))} for name in names]
    values = [value for _, value in itertools.takewhile(lambda each: each[1] is not MISSING, part.values)]
    return {**part.node, "id": at, "inputs": inputs, "widgets_values": values}


def _at(config: Any, *path: object) -> Any:
    """What a group's settings say at a path, whose numbers are texts in JSON; None where they say nothing."""
    for part in path:
        config = config.get(str(part), config.get(part)) if isinstance(config, Mapping) else None
    return config


def _rows(value: object, length: int) -> list[list[int]]:
    """The beginnings of rows of numbers; rows that are shorter or hold anything else are passed over."""
    rows = [row[:length] for row in value if isinstance(row, (list, tuple))] if isinstance(value, (list, tuple)) else []
    whole_rows = [[number for part in row if (number := whole(part)) is not None] for row in rows]
    return [row for row in whole_rows if len(row) == length]


def _objects(value: object) -> list[Mapping[str, Any]]:
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, (list, tuple)) else []
