"""The order in which the nodes of a document can run, the cycles that prevent one, and what an output needs. No
recursion.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping

from graph_engine.entry import Link
from graph_engine.workflow import Workflow

__all__ = ["dependencies", "needed", "topological"]


def dependencies(workflow: Workflow) -> dict[str, list[str]]:
    """The nodes that each node reads from directly, those that exist; each source once, in the order of the inputs."""
    nodes = workflow.nodes
    found: dict[str, list[str]] = {}
    for id, entry in nodes.items():
        sources = [value.node for value in entry.inputs.values() if type(value) is Link and value.node in nodes]
        found[id] = list(dict.fromkeys(sources)) if len(sources) > 1 else sources
    return found


def needed(sources: Mapping[str, Collection[str]], wanted: Iterable[str]) -> set[str]:
    """Everything that the wanted nodes depend on, themselves included."""
    found = {id for id in wanted if id in sources}
    todo = list(found)
    while todo:
        for source in sources[todo.pop()]:
            if source not in found:
                found.add(source)
                todo.append(source)
    return found


def topological(sources: Mapping[str, Collection[str]]) -> tuple[list[str], list[list[str]]]:
    """Sources before consumers, and the cycles as closed paths along the links; what is in or behind a cycle is not in
    the order.
    """
    # Kahn (1962); graphlib looks for a cycle first in every case, which doubles the time
    waits = {id: len(found) for id, found in sources.items()}
    consumers: dict[str, list[str]] = {id: [] for id in sources}
    for id, found in sources.items():
        for source in found:
            consumers[source].append(id)
    order = [id for id, count in waits.items() if not count]
    for done in order:  # grows while it is walked
        for id in consumers[done]:
            waits[id] -= 1
            if not waits[id]:
                order.append(id)
    return order, _cycles(sources, set(order)) if len(order) < len(sources) else []


def _cycles(sources: Mapping[str, Collection[str]], sorted_out: set[str]) -> list[list[str]]:
    """One shortest cycle of every knot, each from the node that stands first in the document back to itself."""
    import networkx  # only a faulty graph pays for it

    graph: networkx.DiGraph[str] = networkx.DiGraph()
    for id, found in sources.items():
        if id not in sorted_out:
            graph.add_edges_from((source, id) for source in found if source not in sorted_out)
    place = {id: position for position, id in enumerate(sources)}
    cycles = []
    for knot in networkx.strongly_connected_components(graph):
        first = min(knot, key=place.__getitem__)
        if len(knot) > 1 or graph.has_edge(first, first):
            cycles.append(_around(graph.subgraph(knot).adj, first))
    return sorted(cycles, key=lambda cycle: place[cycle[0]])


def _around(follow: Mapping[str, Iterable[str]], start: str) -> list[str]:
    before: dict[str, str] = {}
    queue = deque([start])
    while start not in before:
        node = queue.popleft()
        for after in follow[node]:
            if after not in before:
                before[after] = node
                queue.append(after)
    path = [start, before[start]]
    while path[-1] != start:
        path.append(before[path[-1]])
    return path[::-1]
