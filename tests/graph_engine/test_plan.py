"""The plan: what is needed and nothing else, sources first, growing, without recursion."""

from __future__ import annotations

import networkx
import pytest
from running_nodes import registry

from graph_engine.entry import Link, NodeEntry
from graph_engine.errors import NodeError
from graph_engine.plan import Plan, plan


def add(a, b=0):
    return NodeEntry("Add", {"a": a, "b": b})


NODES = {
    "a": NodeEntry("Number", {}),
    "b": add(Link("a")),
    "c": add(Link("a"), Link("b")),
    "d": add(Link("c"), Link("c")),
    "unneeded": add(Link("d")),
    "lazy": NodeEntry("Choose", {"first": True, "one": Link("b"), "other": Link("unneeded")}),
}


def test_only_what_is_wanted_and_its_sources_first():
    made = plan(NODES, registry().specs, ["d"])
    assert set(made.order) == {"a", "b", "c", "d"}
    place = {node: i for i, node in enumerate(made.order)}
    assert all(place[a] < place[b] for a, b in made.graph.edges)
    assert isinstance(made.graph, networkx.DiGraph)


def test_uses_count_readers_not_links():
    assert plan(NODES, registry().specs, ["d"]).uses == {"a": 2, "b": 1, "c": 1, "d": 0}


def test_lazy_inputs_wait_and_are_added_when_asked_for():
    made = plan(NODES, registry().specs, ["lazy"])
    assert made.order == ["lazy"]
    assert set(made.include(["b"])) == {"a", "b"}
    made.link(["b"], "lazy")
    assert made.uses["b"] == 1
    assert made.include(["a", "b"]) == []


def test_a_branch_is_finished_before_the_next_is_begun():
    """So that the values of one branch are gone before those of the next come."""
    nodes = {}
    for branch in "xy":
        for i in range(3):
            nodes[f"{branch}{i}"] = add(Link(f"{branch}{i - 1}") if i else 0)
    nodes["end"] = add(Link("x2"), Link("y2"))
    order = plan(nodes, registry().specs, ["end"]).order
    assert order in (["x0", "x1", "x2", "y0", "y1", "y2", "end"], ["y0", "y1", "y2", "x0", "x1", "x2", "end"])


def test_a_chain_of_10000_is_no_recursion():
    nodes = {str(i): add(Link(str(i - 1)) if i else 0) for i in range(10_000)}
    assert plan(nodes, registry().specs, ["9999"]).order == [str(i) for i in range(10_000)]


@pytest.mark.parametrize("graph", [{"a": ["a"]}, {"a": ["b"], "b": ["c"], "c": ["a"]}, {"a": ["b"], "b": ["c", "d"], "c": ["b"], "d": []}])
def test_a_circle_is_named(graph):
    made = Plan(lambda node: graph[node])
    with pytest.raises(NodeError, match=r"in a circle: .* -> "):
        made.include(["a"])
