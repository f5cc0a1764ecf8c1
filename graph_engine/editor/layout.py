"""From an API document to a graph that the editor opens: what is where on the canvas, and how links and widgets are saved."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from typing import Any

from graph_engine.document import read_input
from graph_engine.editor.fields import Field, saved_values
from graph_engine.editor.saved import fault
from graph_engine.editor.substitute import wording
from graph_engine.entry import Link
from graph_engine.suggest import show

__all__ = ["to_editor"]

_GAP_X, _GAP_Y, _TITLE, _ROW, _TEXT = 60, 50, 40, 24, 120  # canvas units; a text area is as high as five rows


def to_editor(document: Mapping[str, Any], definitions: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A graph in the saved format 0.4 that converts back to the same document.

    Nodes stand in columns by their distance from the start of the graph. Raises WorkflowError for a node type that is not
    defined, and for what the format cannot hold: an input that does not exist, or a value for a mere socket.
    """
    entries = {str(id): entry for id, entry in document.items() if isinstance(entry, Mapping) and "class_type" in entry}
    ids = _numbers(entries)
    depth = _depths(entries)
    nodes: dict[str, dict[str, Any]] = {id: _node(id, ids[id], entry, definitions) for id, entry in entries.items()}
    links: list[list[Any]] = []
    for id, entry in entries.items():
        for name, value in entry.get("inputs", {}).items():
            if isinstance(link := read_input(value), Link):
                links.append(_link(len(links) + 1, link, id, name, entries, nodes, definitions))
    _place(nodes, depth)
    for order, id in enumerate(sorted(nodes, key=lambda each: depth[each])):
        nodes[id]["order"] = order
    numbers = [each for each in ids.values() if isinstance(each, int)]
    return {
        "last_node_id": max(numbers, default=0),
        "last_link_id": len(links),
        "nodes": [*nodes.values()],
        "links": links,
        "groups": [],
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def _numbers(entries: Mapping[str, Any]) -> dict[str, int | str]:
    """Ids as the editor has them: numbers where they are whole, and no colon, which it keeps for subgraphs."""
    found: dict[str, int | str] = {}
    taken = set(entries)
    for id in entries:
        if id.isascii() and id.isdecimal() and str(int(id)) == id and len(id) < 16:
            found[id] = int(id)
            continue
        name = id.replace(":", "_")
        while name != id and name in taken:
            name += "_"
        taken.add(name)
        found[id] = name
    return found


def _node(id: str, number: int | str, entry: Mapping[str, Any], definitions: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    type, given, meta = entry["class_type"], entry.get("inputs", {}), entry.get("_meta", {})
    definition = definitions.get(type) if isinstance(type, str) else None
    if definition is None:
        raise fault("every node type is defined", f"there is no node type {show(type)}", node=id)
    read = {name: read_input(value) for name, value in given.items()}
    literals = {name: value for name, value in read.items() if not isinstance(value, Link)}
    declared, _ = saved_values(definition, literals)
    for each in declared:
        if each.options.get("dynamicPrompts") and isinstance(text := literals.get(each.name), str):
            literals[each.name] = _plain(text, id, each.name)
    declared, values = saved_values(definition, literals)
    shown = [each for each in declared if each.socket]
    known = {each.name: each for each in declared}
    for name, value in read.items():
        field = known.get(name)
        if field is None and value is not None:
            raise fault("an input is declared", f"{type} shows no input {name!r}", node=id, field=name)
        if field is not None and not field.widget and value is not None and not isinstance(value, Link):
            raise fault("a socket holds links only", f"{show(value)} is no link", node=id, field=name)
    types, names = definition.get("output") or [], definition.get("output_name") or []
    properties: dict[str, Any] = {"Node name for S&R": type}
    if "version" in meta:
        properties["version"] = meta["version"]
    node: dict[str, Any] = {
        "id": number,
        "type": type,
        "pos": [0, 0],
        "size": _size(shown, len(types), str(meta.get("title") or type)),
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [_socket(each) for each in shown],
        "outputs": [
            {"name": names[at] if at < len(names) else f"output_{at}", "type": each if isinstance(each, str) else "COMBO", "links": []}
            for at, each in enumerate(types)
        ],
        "properties": properties,
        "widgets_values": values,
    }
    if meta.get("title"):
        node["title"] = meta["title"]
    return node


def _plain(text: str, id: str, name: str) -> str:
    """The text in which the editor finds no alternatives to choose from."""
    written = re.sub(r"[{}|]", r"\\\g<0>", text)
    if wording(written, random.Random(0)) != text:
        raise fault("a text with alternatives", "the editor would take a part of it for a comment", node=id, field=name, got=text)
    return written


def _socket(field: Field) -> dict[str, Any]:
    socket: dict[str, Any] = {"name": field.name, "type": field.type, "link": None}
    return {**socket, "widget": {"name": field.name}} if field.widget else socket


def _link(
    number: int,
    link: Link,
    id: str,
    name: str,
    entries: Mapping[str, Mapping[str, Any]],
    nodes: Mapping[str, dict[str, Any]],
    definitions: Mapping[str, Mapping[str, Any]],
) -> list[Any]:
    if link.node not in nodes:
        raise fault("a link starts at a node of its graph", f"there is no node {show(link.node)}", node=id, field=name)
    origin, target = nodes[link.node], nodes[id]
    slot = link.output
    if isinstance(slot, str):
        names = [str(each).casefold() for each in definitions[entries[link.node]["class_type"]].get("output_name") or []]
        slot = names.index(slot.casefold()) if slot.casefold() in names else -1
    if not 0 <= slot < len(origin["outputs"]):
        raise fault("a link starts at an output", f"node {link.node} has no output {show(link.output)}", node=id, field=name)
    at = next(at for at, each in enumerate(target["inputs"]) if each["name"] == name)
    output = origin["outputs"][slot]
    output["links"].append(number)
    target["inputs"][at]["link"] = number
    return [number, origin["id"], slot, target["id"], at, output["type"]]


def _depths(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """How many links lie at most between a node and the start; nodes of a circle come after all others."""
    before: dict[str, set[str]] = {}
    after: dict[str, list[str]] = {id: [] for id in entries}
    for id, entry in entries.items():
        links = [read_input(value) for value in entry.get("inputs", {}).values()]
        before[id] = {link.node for link in links if isinstance(link, Link) and link.node in entries}
        for origin in before[id]:
            after[origin].append(id)
    depth = dict.fromkeys((id for id in entries if not before[id]), 0)
    ready = [*depth]
    for id in ready:
        for target in after[id]:
            before[target].discard(id)
            if not before[target]:
                depth[target] = depth[id] + 1
                ready.append(target)
    last = max(depth.values(), default=-1) + 1
    return {id: depth.get(id, last) for id in entries}


def _place(nodes: Mapping[str, dict[str, Any]], depth: Mapping[str, int]) -> None:
    x = 0
    for column in range(max(depth.values(), default=-1) + 1):
        y = width = 0
        for id, node in nodes.items():
            if depth[id] == column:
                node["pos"] = [x, y]
                y += node["size"][1] + _GAP_Y
                width = max(width, node["size"][0])
        x += width + _GAP_X


def _size(fields: list[Field], outputs: int, title: str) -> list[int]:
    sockets = sum(not each.widget for each in fields)
    texts = sum(bool(each.widget and each.options.get("multiline")) for each in fields)
    rows = max(sockets, outputs) + len(fields) - sockets - texts
    return [max(270, min(420, 9 * len(title) + 60)) if not texts else 400, _TITLE + _ROW * rows + _TEXT * texts]
