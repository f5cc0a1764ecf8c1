"""What the wanted nodes need, as a networkx graph that grows while the run goes on: lazy inputs and expansions are added when asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import networkx

from graph_engine.entry import Link, NodeEntry
from graph_engine.errors import NodeError
from graph_engine.spec import NodeSpec

__all__ = ["Plan", "eager_sources", "plan"]


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
        graph, reads = self.graph, dict[str, list[str]]()  # of each new node, what it reads from
        order: dict[str, None] = {}
        for root in wanted:
            if root in graph or root in reads:
                continue
            reads[root] = list(self._sources(root))
            path, rest = [root], [iter(reads[root])]
            while path:  # depth first without recursion: a node is left when all that it reads has been
                for source in rest[-1]:
                    if source in graph or source in order:
                        continue
                    if source in reads:
                        circle = [*path[path.index(source) :], source]
                        raise NodeError(f"the links go round in a circle: {' -> '.join(reversed(circle))}")
                    reads[source] = list(self._sources(source))
                    path.append(source)
                    rest.append(iter(reads[source]))
                    break
                else:
                    order[path.pop()] = None
                    rest.pop()
        graph.add_nodes_from(order)
        graph.add_edges_from((source, node) for node in order for source in reads[node])
        self.order += order
        return list(order)

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
