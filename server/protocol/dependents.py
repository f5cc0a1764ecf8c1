"""Which of the wanted outputs depend on each node."""

from __future__ import annotations

from collections.abc import Sequence

from graph_engine import Workflow
from graph_engine.order import dependencies, topological

__all__ = ["dependents"]


def dependents(workflow: Workflow, outputs: Sequence[str]) -> dict[str, list[str]]:
    """For every node that an output needs, itself included, those outputs in the given order. Linear in the links, also around circles."""
    sources = dependencies(workflow)
    masks = dict.fromkeys(sources, 0)  # bit i: needed by output i
    for place, output in enumerate(outputs):
        masks[output] |= 1 << place
    order, cycles = topological(sources)
    groups = [[id] for id in reversed(order)]
    if cycles:
        groups = _knots(sources)
    for group in groups:  # consumers before sources
        together = 0
        for id in group:
            together |= masks[id]
        for id in group:
            masks[id] = together
            for source in sources[id]:
                masks[source] |= together
    names: dict[int, list[str]] = {}
    for mask in set(masks.values()):
        names[mask] = [output for place, output in enumerate(outputs) if mask >> place & 1]
    return {id: names[mask] for id, mask in masks.items() if mask}


def _knots(sources: dict[str, list[str]]) -> list[list[str]]:
    """The nodes in groups that depend on one another, consumers first."""
    import networkx  # only a graph with circles pays for it

    graph: networkx.DiGraph[str] = networkx.DiGraph()
    graph.add_nodes_from(sources)
    graph.add_edges_from((id, source) for id, found in sources.items() for source in found)
    # Tarjan's algorithm gives what is reachable first, which is sources before consumers
    return [list(knot) for knot in networkx.strongly_connected_components(graph)][::-1]
