from __future__ import annotations

from itertools import pairwise

import networkx
from hypothesis import given
from hypothesis import strategies as st

from graph_engine.order import dependencies, needed, topological
from graph_engine.workflow import Link, NodeEntry, Workflow

Sources = dict[str, list[str]]
IDS = [str(n) for n in range(8)]
GRAPHS = st.lists(st.lists(st.sampled_from(IDS), max_size=3, unique=True), min_size=8, max_size=8).map(
    lambda found: dict(zip(IDS, found, strict=True))
)


def as_networkx(sources: Sources) -> networkx.DiGraph[str]:
    graph: networkx.DiGraph[str] = networkx.DiGraph()
    graph.add_nodes_from(sources)
    graph.add_edges_from((source, id) for id, found in sources.items() for source in found)
    return graph


@given(GRAPHS)
def test_sources_come_first_and_only_cycles_keep_a_node_out(sources: Sources) -> None:
    order, cycles = topological(sources)
    graph = as_networkx(sources)
    place = {id: n for n, id in enumerate(order)}
    assert len(place) == len(order)
    assert all(place[source] < place[id] for id in order for source in sources[id])
    knots = [knot for knot in networkx.strongly_connected_components(graph) if len(knot) > 1 or graph.has_edge(*[*knot] * 2)]
    stuck = {node for knot in knots for member in knot for node in (member, *networkx.descendants(graph, member))}
    assert set(order) == set(sources) - stuck
    assert len(cycles) == len(knots)


@given(GRAPHS)
def test_a_cycle_is_a_closed_path_along_the_links(sources: Sources) -> None:
    for cycle in topological(sources)[1]:
        assert cycle[0] == cycle[-1]
        assert len(set(cycle)) == len(cycle) - 1
        assert all(source in sources[id] for source, id in pairwise(cycle))


@given(GRAPHS, st.lists(st.sampled_from([*IDS, "none"])))
def test_what_is_needed_are_the_ancestors(sources: Sources, wanted: list[str]) -> None:
    graph = as_networkx(sources)
    known = [id for id in wanted if id in sources]
    assert needed(sources, wanted) == {*known, *(node for id in known for node in networkx.ancestors(graph, id))}


def test_depth_is_no_matter() -> None:
    count = 10_000
    sources = {str(n): [str(n - 1)] if n else [] for n in range(count)}
    assert topological(sources) == ([str(n) for n in range(count)], [])
    assert len(needed(sources, [str(count - 1)])) == count
    sources["0"] = [str(count - 1)]
    order, cycles = topological(sources)
    assert order == []
    assert [len(cycle) for cycle in cycles] == [count + 1]


def test_dependencies_are_the_nodes_that_exist_each_once() -> None:
    inputs = {"a": Link("1"), "b": Link("1", 3), "c": Link("gone"), "d": Link("2"), "e": ["1", 0]}
    workflow = Workflow({"1": NodeEntry("X"), "2": NodeEntry("X"), "3": NodeEntry("X", inputs)})
    assert dependencies(workflow) == {"1": [], "2": [], "3": ["1", "2"]}
