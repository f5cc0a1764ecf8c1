"""Node ids as the editor settles them on loading: no two nodes share one, within a graph or across subgraphs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from graph_engine.editor.saved import INSIDE_IN, INSIDE_OUT, SavedGraph, SavedSubgraph

__all__ = ["proxies", "settle"]


def settle(root: SavedGraph, subgraphs: Mapping[str, SavedSubgraph], last: int) -> None:
    """Give new ids where an id is used twice, and carry them into links and into lists of promoted widgets.

    The root keeps its ids before subgraphs do, and of two subgraphs the one that is defined first.
    """
    taken = {node.id for node in root.nodes}
    renamed: dict[str, dict[str, str]] = {}
    for id, subgraph in subgraphs.items():
        own = {node.id for node in subgraph.nodes}
        names: dict[str, str] = {}
        for name in dict.fromkeys(node.id for node in subgraph.nodes):
            if name in taken:
                last = _next(last, taken | own)
                names[name] = str(last)
        taken |= {names.get(name, name) for name in own}
        if names:
            renamed[id] = names
            _rename(subgraph, names)
    for graph in (root, *subgraphs.values()):
        for node in graph.nodes:
            if node.type in renamed and (found := proxies(node.properties)):
                names = renamed[node.type]
                moved = [[names.get(entry[0], entry[0]), *entry[1:]] for entry in found]
                node.properties = {**node.properties, "proxyWidgets": moved}
    used: set[str] = set()
    for node in root.nodes:
        if node.id in used or not node.id or node.id == "-1":
            node.id = str(_next(last, used))
        used.add(node.id)
        if node.id.isdecimal() and node.id.isascii() and len(node.id) < 16:
            last = max(last, int(node.id))
    for subgraph in subgraphs.values():  # of two nodes with one id the later stays
        subgraph.nodes = list({node.id: node for node in subgraph.nodes}.values())


def proxies(properties: Mapping[str, Any]) -> list[list[str]]:
    """The promoted widgets listed the old way, as [node id, widget name]; none when the list is malformed."""
    found = properties.get("proxyWidgets")
    if isinstance(found, str):
        try:
            found = json.loads(found)
        except ValueError:
            return []
    if not isinstance(found, (list, tuple)):
        return []
    rows = [list(row) for row in found if isinstance(row, (list, tuple)) and len(row) >= 2 and all(isinstance(p, str) for p in row)]
    return rows if len(rows) == len(found) else []


def _next(last: int, taken: set[str]) -> int:
    last += 1
    while str(last) in taken:
        last += 1
    return last


def _rename(subgraph: SavedSubgraph, names: Mapping[str, str]) -> None:
    for node in subgraph.nodes:
        node.id = names.get(node.id, node.id)
    ends = {INSIDE_IN: INSIDE_IN, INSIDE_OUT: INSIDE_OUT}
    names = {**names, **ends}
    subgraph.cables = [
        replace(cable, origin=names.get(cable.origin, cable.origin), target=names.get(cable.target, cable.target))
        for cable in subgraph.cables
    ]
