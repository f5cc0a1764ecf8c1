"""From the editor's saved graph to the API document that the editor would submit for it."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, TypeGuard

from graph_engine.editor.graph import BYPASSED, MUTED, Graph, Node, Subgraph, build
from graph_engine.editor.group_nodes import groups, without_groups
from graph_engine.editor.literal import MISSING, as_prompt, as_unknown
from graph_engine.editor.primitives import apply_primitives
from graph_engine.editor.promotion import promote
from graph_engine.editor.resolve import Output, Scope, resolve
from graph_engine.editor.saved import fault
from graph_engine.editor.substitute import NAMING, name_of_file, wording

__all__ = ["is_editor_graph", "node_types", "to_api"]

_MOST_NODES = 50_000  # subgraphs within subgraphs multiply
_VERSION = re.compile(r"v?(\d+\.\d+\.\d+(?:[-+][0-9A-Za-z.+-]+)?)|([0-9a-f]{40}|unknown)")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def is_editor_graph(document: object) -> TypeGuard[Mapping[str, Any]]:
    """Whether parsed JSON is a graph in the editor's saved format rather than an API document."""
    return isinstance(document, Mapping) and isinstance(document.get("nodes"), (list, tuple))


def node_types(graph: Mapping[str, Any]) -> set[str]:
    """The node types that a saved graph uses, in its subgraphs and groups too; whatever is malformed is passed over."""
    definitions = graph.get("definitions")
    inner = definitions.get("subgraphs") if isinstance(definitions, Mapping) else None
    graphs = [graph, *(inner if isinstance(inner, (list, tuple)) else ()), *groups(graph).values()]
    lists = [nodes for each in graphs if isinstance(each, Mapping) and isinstance(nodes := each.get("nodes"), (list, tuple))]
    return {type.strip() for nodes in lists for node in nodes if isinstance(node, Mapping) and isinstance(type := node.get("type"), str)}


def to_api(
    graph: Mapping[str, Any],
    definitions: Mapping[str, Mapping[str, Any]],
    *,
    exact: bool = True,
    choose: random.Random | None = None,
    now: datetime | None = None,
) -> dict[str, Any]:
    """The API document of a saved graph (formats 0.4 and 1.0), as the editor submits it.

    `definitions` describe the node types (object_info). A node of another type is written without `class_type`, as the
    editor does, unless `exact` is off, which also hands on the versions of node types that `to_editor` noted. `choose`
    picks among the wordings of `{a|b}`; `now` is the time for `%date:...%`. Raises WorkflowError, naming the node and the
    rule, when the graph is malformed, links go round in a circle, or a subgraph contains itself.
    """
    root, subgraphs = build(without_groups(graph, definitions), definitions)
    for each in (root, *subgraphs.values()):
        apply_primitives(each)
    promote(root, subgraphs)
    write = _Writer(root, subgraphs, exact, choose or random.Random(), now or datetime.now())
    found = {scope.id(node): write.entry(scope, node) for scope, node in _running(Scope(root), subgraphs)}
    for entry in found.values():
        entry["inputs"] = {
            name: value for name, value in entry["inputs"].items() if not (isinstance(value, list) and value[0] not in found)
        }
    return dict(sorted(found.items(), key=lambda item: _rank(item[0])))


def _running(root: Scope, subgraphs: Mapping[str, Subgraph]) -> Iterator[tuple[Scope, Node]]:
    """Every node that is submitted. A subgraph on the root's level is left out when muted or bypassed; one further in is
    not, only its links are.
    """
    waiting = [(root, node) for node in reversed(root.graph.nodes.values())]
    count = 0
    while waiting:
        scope, node = waiting.pop()
        count += 1
        if count > _MOST_NODES:
            raise fault("subgraphs within subgraphs multiply", f"the graph has more than {_MOST_NODES} nodes")
        asleep = node.mode in (MUTED, BYPASSED) and not isinstance(node.mode, bool)
        inner = subgraphs.get(node.type)
        if inner is not None:
            if scope.parent is not None or not asleep:
                below = scope.enter(node, inner)
                waiting.extend((below, each) for each in reversed(inner.nodes.values()))
        elif not asleep and not node.virtual:
            yield scope, node


class _Writer:
    """Writes one node after another; all that does not change from node to node is kept here."""

    def __init__(self, root: Graph, subgraphs: Mapping[str, Subgraph], exact: bool, choose: random.Random, now: datetime) -> None:
        self.subgraphs = subgraphs
        self.all_nodes = [*root.nodes.values(), *(node for each in subgraphs.values() for node in each.nodes.values())]
        self.exact = exact
        self.choose = choose
        self.now = now

    def entry(self, scope: Scope, node: Node) -> dict[str, Any]:
        inputs = self._widgets(node)
        types = {each.name: each.type for each in node.inputs}
        for at in sorted(node.feeds):
            found = resolve(scope, node, at, self.subgraphs)
            name = node.inputs[at].name
            if isinstance(found, Output):
                inputs[name] = [found.id, found.slot]
            elif found is not None and found.value is not MISSING:
                inputs[name] = as_prompt(found.value, types[name])
        entry: dict[str, Any] = {"inputs": inputs}
        if node.definition is not None or not self.exact:
            entry["class_type"] = node.type
        meta = _meta(node)
        if not self.exact and isinstance(version := node.properties.get("version"), int):
            meta["version"] = version
        return {**entry, "_meta": meta}

    def _widgets(self, node: Node) -> dict[str, Any]:
        if node.definition is None:
            names = ("UNKNOWN" if at == 0 else f"UNKNOWN_{at}" for at in range(len(node.saved or [])))
            return dict(zip(names, map(as_unknown, node.saved or []), strict=True))
        options = {each.name: (each.type, each.options) for each in node.inputs}
        inputs = {}
        for name, value in node.values.items():
            type, about = options.get(name, ("", {}))
            if value is MISSING:
                continue
            if isinstance(value, str) and about.get("dynamicPrompts"):
                value = wording(value, self.choose)
            elif isinstance(value, str) and name == "filename_prefix" and node.type in NAMING:
                value = name_of_file(value, self.all_nodes, self.now)
            inputs[name] = as_prompt(value, type)
        return inputs


def _meta(node: Node) -> dict[str, Any]:
    """Title, and where the node type came from when the file says so."""
    title = node.title
    if not title:
        definition = node.definition
        title = "" if definition is None else definition.get("display_name") or definition.get("name") or node.type
    meta: dict[str, Any] = {"title": title}
    package, version, repository = (node.properties.get(name) for name in ("cnr_id", "ver", "aux_id"))
    if isinstance(package, str) and package:
        meta["cnr_id"] = package
    if isinstance(repository, str) and _REPOSITORY.fullmatch(repository):
        meta["aux_id"] = repository
    if isinstance(version, str) and (match := _VERSION.fullmatch(version)):
        meta["ver"] = match[1] or match[2]
    return meta


def _rank(id: str) -> tuple[int, int]:
    """A script's objects list whole numbers first, in their order, then the rest as they came (ECMA-262, 10.1.11)."""
    plain = id.isascii() and id.isdecimal() and (id == "0" or id[0] != "0") and len(id) < 10
    return (0, int(id)) if plain else (1, 0)
