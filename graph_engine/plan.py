"""What the wanted nodes need, as a networkx graph that grows while the run goes on: lazy inputs and expansions are added when asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import networkx

from graph_engine.entry import Link, NodeEntry
from graph_engine.errors import NodeError
from graph_engine.spec import NodeSpec

__all__ = ["Plan", "eager_sources", "plan"]

_ROOT = object()


class Plan:
    """The nodes that are needed so far, each with an edge from every node it reads from."""

    def __init__(self, sources: Callable[[str], Iterable[str]]) -> None:
        self._sources = sources
        self.graph: networkx.DiGraph[str] = networkx.DiGraph()
        self.order: list[str] = []

    def include(self, wanted: Iterable[str]) -> list[str]:
        """Add nodes and whatever they need; the new ones, sources first, each close to its consumer so that values live shortly.

        Raises NodeError, with the path, when links go round in a circle.
        """
        new: networkx.DiGraph[Any] = networkx.DiGraph()
        roots = [node for node in dict.fromkeys(wanted) if node not in self.graph]
        todo = list(roots)
        seen = set(roots)
        while todo:
            node = todo.pop()
            for source in self._sources(node):
                new.add_edge(node, source)
                if source not in seen and source not in self.graph:
                    seen.add(source)
                    todo.append(source)
        new.add_edges_from((_ROOT, node) for node in roots)
        if not roots:
            return []
        order = [node for node in networkx.dfs_postorder_nodes(new, _ROOT) if node in seen]
        place = {node: i for i, node in enumerate(order)}
        if any(place[node] <= place.get(source, -1) for node, source in new.edges if node is not _ROOT):
            cycle = [edge[1] for edge in networkx.find_cycle(new, _ROOT)]
            raise NodeError(f"the links go round in a circle: {' -> '.join(reversed([cycle[-1], *cycle]))}")
        self.graph.add_nodes_from(order)
        self.graph.add_edges_from((source, node) for node, source in new.edges if node is not _ROOT)
        self.order += order
        return order

    def link(self, sources: Iterable[str], node: str) -> None:
        """Note that a node came to need more."""
        self.graph.add_edges_from((source, node) for source in sources)

    @property
    def uses(self) -> dict[str, int]:
        """How many nodes read each node."""
        return dict(self.graph.out_degree())


def eager_sources(entry: NodeEntry, spec: NodeSpec) -> list[str]:
    """The nodes that a node reads from at once; lazy inputs wait until they are asked for."""
    declared = spec.by_name
    found = {
        value.node: None
        for name, value in entry.inputs.items()
        if type(value) is Link and (wanted := declared.get(name)) is not None and not wanted.lazy
    }
    return list(found)


def plan(nodes: Mapping[str, NodeEntry], specs: Mapping[str, NodeSpec], wanted: Iterable[str]) -> Plan:
    """The plan for some wanted nodes of a valid workflow."""
    made = Plan(lambda id: eager_sources(nodes[id], specs[nodes[id].class_type]))
    made.include(wanted)
    return made
