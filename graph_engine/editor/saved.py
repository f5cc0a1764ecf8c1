"""The editor's saved format, versions 0.4 and 1.0, read from JSON into plain records; every mistake of form is named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from graph_engine.errors import WorkflowError
from graph_engine.spec import Problem
from graph_engine.suggest import show

__all__ = ["INSIDE_IN", "INSIDE_OUT", "Cable", "SavedGraph", "SavedInput", "SavedNode", "SavedSubgraph", "fault", "read"]

INSIDE_IN, INSIDE_OUT = "-10", "-20"  # the two ends of a subgraph, seen from within
_DEEPEST = 100
_KIND = "editor_graph"


@dataclass(slots=True)
class SavedInput:
    name: str
    type: str
    link: str | None


@dataclass(frozen=True, slots=True)
class Cable:
    """One row of a graph's link table."""

    id: str
    origin: str
    output: Any
    target: str
    input: Any
    row: int = 0


@dataclass(slots=True)
class SavedNode:
    """A node as it was saved; `values` is None unless its widget values are a list."""

    id: str
    type: str
    mode: Any = 0
    title: Any = None
    inputs: list[SavedInput] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    values: list[Any] | None = None
    properties: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class SavedGraph:
    nodes: list[SavedNode]
    cables: list[Cable]


@dataclass(slots=True)
class SavedSubgraph(SavedGraph):
    """A graph that is used as a node; `inputs` are (name, type), `outputs` (name, type, ids of links that feed it)."""

    id: str = ""
    name: str = ""
    inputs: list[tuple[str, str, list[str] | None]] = field(default_factory=list)
    outputs: list[tuple[str, str, list[str] | None]] = field(default_factory=list)


def fault(rule: str, message: str, **where: Any) -> WorkflowError:
    """The error of a saved graph that cannot be read; `rule` names what it breaks."""
    return WorkflowError([Problem(code=_KIND, message=f"{message} ({rule})", **where)])


def read(graph: object) -> tuple[SavedGraph, dict[str, SavedSubgraph], int]:
    """The root graph, the subgraphs it defines by their ids, and the last node id it says it has used.

    Raises WorkflowError when the JSON is nested too deeply or is not a saved graph.
    """
    if not isinstance(graph, Mapping):
        raise fault("a saved graph is an object", f"{show(graph)} is not a saved graph")
    _check_depth(graph)
    state = graph.get("state")
    last = state.get("lastNodeId") if isinstance(state, Mapping) else graph.get("last_node_id")
    definitions = graph.get("definitions")
    subgraphs: dict[str, SavedSubgraph] = {}
    for at, entry in enumerate(_list(definitions.get("subgraphs"), "definitions.subgraphs") if isinstance(definitions, Mapping) else []):
        place = f"definitions.subgraphs[{at}]"
        if not isinstance(entry, Mapping) or not isinstance(entry.get("id"), str):
            raise fault("a subgraph is an object with an id", f"{place} is {show(entry)}")
        nodes, cables = _nodes(entry, f"{place}."), _cables(entry, f"{place}.")
        ends = [_ends(entry.get(kind), f"{place}.{kind}") for kind in ("inputs", "outputs")]
        name = entry.get("name")
        subgraphs[entry["id"]] = SavedSubgraph(nodes, cables, entry["id"], name if isinstance(name, str) else "", *ends)
    root = SavedGraph(_nodes(graph, ""), _cables(graph, ""))
    return root, subgraphs, last if isinstance(last, int) and not isinstance(last, bool) else 0


def key(id: object) -> str | None:
    """The text form by which ids are compared: 3, 3.0 and "3" are one id."""
    if isinstance(id, str):
        return id
    if isinstance(id, float) and id.is_integer():
        return str(int(id))
    return str(id) if isinstance(id, (int, float)) and not isinstance(id, bool) else None


def _nodes(graph: Mapping[str, Any], place: str) -> list[SavedNode]:
    found = []
    for at, value in enumerate(_list(graph.get("nodes"), f"{place}nodes")):
        where = f"{place}nodes[{at}]"
        if not isinstance(value, Mapping):
            raise fault("a node is an object", f"{where} is {show(value)}")
        id, type = key(value.get("id")), value.get("type")
        if id is None:
            raise fault("a node has an id", f"{where} has the id {show(value.get('id'))}")
        if not isinstance(type, str):
            raise fault("a node has a type", f"its type is {show(type)}, which is not a text", node=id)
        type = type.strip()  # as in the API format
        inputs = [
            SavedInput(_text(entry.get("name")), _text(entry.get("type")), key(entry.get("link")))
            for entry in _objects(value.get("inputs"), f"{where}.inputs", id)
        ]
        outputs = [_text(entry.get("type")) for entry in _objects(value.get("outputs"), f"{where}.outputs", id)]
        values, properties = value.get("widgets_values"), value.get("properties")
        found.append(
            SavedNode(
                id,
                type,
                value.get("mode"),
                value.get("title"),
                inputs,
                outputs,
                list(values) if isinstance(values, (list, tuple)) else None,
                properties if isinstance(properties, Mapping) else {},
            )
        )
    return found


def _cables(graph: Mapping[str, Any], place: str) -> list[Cable]:
    found = []
    for at, value in enumerate(_list(graph.get("links"), f"{place}links")):
        parts: list[Any]
        if isinstance(value, Mapping):
            parts = [value.get(part) for part in ("id", "origin_id", "origin_slot", "target_id", "target_slot")]
        else:
            parts = list(value[:5]) if isinstance(value, (list, tuple)) else []
        id, origin, target = (key(parts[n]) if len(parts) == 5 else None for n in (0, 1, 3))
        if id is None or origin is None or target is None:
            raise fault("a link is [id, origin, slot, target, slot, type] or an object of these", f"{place}links[{at}] is {show(value)}")
        found.append(Cable(id, origin, parts[2], target, parts[4], at))
    return found


def _ends(value: object, place: str) -> list[tuple[str, str, list[str] | None]]:
    found = []
    for entry in _objects(value, place, None):
        ids = entry.get("linkIds")
        links = [id for part in ids if (id := key(part)) is not None] if isinstance(ids, (list, tuple)) else None
        found.append((_text(entry.get("name")), _text(entry.get("type")), links))
    return found


def _objects(value: object, place: str, node: str | None) -> list[Mapping[str, Any]]:
    found = []
    for at, entry in enumerate(_list(value, place)):
        if not isinstance(entry, Mapping):
            raise fault("inputs and outputs are lists of objects", f"{place}[{at}] is {show(entry)}", node=node)
        found.append(entry)
    return found


def _list(value: object, place: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, (list, tuple)):
        raise fault("nodes, links and subgraphs come in lists", f"{place} is {show(value)}")
    return list(value)


def _text(value: object) -> str:
    """A type may be a list of choices, which is a COMBO; anything else that is no text fits everything."""
    return value if isinstance(value, str) else "COMBO" if isinstance(value, (list, tuple)) else ""


def _check_depth(graph: object) -> None:
    """So that nothing later can exhaust the stack."""
    level: list[Any] = [graph]
    for _depth in range(_DEEPEST):
        level = [part for value in level if isinstance(value, (Mapping, list, tuple)) for part in _parts(value)]
        if not level:
            return
    raise fault(f"at most {_DEEPEST} levels", "the graph is nested too deeply")


def _parts(value: Any) -> Any:
    return value.values() if isinstance(value, Mapping) else value
