"""Nodes that stand for other nodes, at run time."""

from __future__ import annotations

import pytest
from documents import doc

from graph_engine.entry import Link, NodeEntry
from graph_engine.events import NodeDone, NodeExpanded
from graph_engine.expansion import Expansion, absolute


def test_an_expanded_node_gives_what_its_nodes_give(engine, calls):
    events = []
    e = engine()
    result = e.run(
        doc(n=("Number", {"value": 3}), t=("Twice", {"a": "@n"}), b=("Add", {"a": "@t"}), s=("Show", {"what": "@b"})),
        on_event=events.append,
    )
    assert result["t"] == 5
    assert result["b"] == 6
    assert result["t.first"] == 4
    expanded = next(event for event in events if isinstance(event, NodeExpanded))
    assert (expanded.node, expanded.nodes) == ("t", ("t.first", "t.second"))
    assert {event.parent for event in events if isinstance(event, NodeDone) and event.node.startswith("t")} == {"t"}
    assert calls == ["n", "t", "t.first", "t.second", "b", "s"]


def test_an_expanded_node_is_cached_as_one_and_in_parts(engine, calls):
    e = engine()
    workflow = doc(n=("Number", {"value": 3}), t=("Twice", {"a": "@n"}), s=("Show", {"what": "@t"}))
    e.run(workflow)
    calls.clear()
    again = e.run(workflow)
    assert (calls, again.executed, set(again.cached)) == ([], (), {"n", "t", "s"})
    e.run(doc(a=("Add", {"a": 3, "b": 1}), s=("Show", {"what": "@a"})))
    assert calls == ["a", "s"]  # a literal is not what a constant is
    calls.clear()
    e.run(doc(n=("Number", {"value": 4}), t=("Twice", {"a": "@n"}), s=("Show", {"what": "@t"})))
    assert calls == ["n", "t", "t.second", "s"]  # 4 + 1 was known


def test_a_mapped_node_expands_once_for_each_item(engine):
    workflow = doc(n=("Count", {"n": 3}), t=("Twice", {"a": "@n"}), s=("Sum", {"values": "@t"}))
    result = engine().run(workflow, wanted=["t", "s"])
    assert result["t"] == [2, 3, 4]
    assert result["s"] == 9
    assert result["t.1.second"] == 3


def test_outputs_may_be_gathered_into_lists(engine):
    workflow = doc(g=("Gather", {"n": 4}), a=("Add", {"a": "@g"}), s=("Sum", {"values": "@a"}))
    result = engine().run(workflow, wanted=["g", "s"])
    assert result["g"] == [0, 2, 4, 6]
    assert result["s"] == 16
    assert engine().run(doc(g=("Gather", {"n": 0})), wanted=["g"])["g"] == []


def test_effects_inside_an_expansion_happen_and_are_noticed_when_undone(engine, tmp_path, calls):
    e = engine()
    workflow = doc(w=("WriteInside", {"a": 5}), s=("Show", {"what": "@w"}))
    first = e.run(workflow)
    assert first["w"] == 6
    (artifact,) = first.artifacts
    assert (tmp_path / "output" / artifact.filename).read_text() == "6"
    again = e.run(workflow)
    assert (again.executed, again.artifacts) == ((), first.artifacts)
    (tmp_path / "output" / artifact.filename).unlink()
    assert set(e.run(workflow).executed) == {"w", "w.kept"}
    assert (tmp_path / "output" / artifact.filename).read_text() == "6"


def test_expansion_within_expansion_is_a_loop_without_recursion_or_growing_ids(engine):
    result = engine(debug=False).run(doc(d=("Down", {"n": 1000}), s=("Show", {"what": "@d"})), wanted=["d"])
    assert result["d"] == 1000 * 1001 // 2
    assert max(map(len, result.executed)) < 200
    assert result["d.add"] == 1000
    assert result["d.again.add"] == 1999


def test_a_node_that_expands_to_itself_is_told_so(engine):
    result = engine().run(doc(f=("Forever", {}), s=("Show", {"what": "@f"})))
    assert "expands into itself with the same inputs" in result.failures[0].message


def test_a_failure_inside_names_the_inner_node_and_its_parent(engine, monkeypatch):
    import running_nodes

    def broken(self, ctx):
        return ctx.expand({"bad": NodeEntry("Fail", {"why": "inside"})}, Link("bad"))

    monkeypatch.setattr(running_nodes.Twice, "run", broken)
    result = engine().run(doc(t=("Twice", {"a": 1}), s=("Show", {"what": "@t"})))
    (failure,) = result.failures
    assert (failure.node, failure.parent, failure.message) == ("t.bad", "t", "inside")


@pytest.mark.parametrize(
    ("nodes", "outputs", "message"),
    [
        ({"x": NodeEntry("Ad", {"a": 1})}, [Link("x")], "no node type 'Ad'; did you mean 'Add'"),
        ({"x": NodeEntry("Add", {})}, [Link("x")], r"node x \(Add\): input a is missing"),
        ({"x": NodeEntry("Add", {"a": Link("y")})}, [Link("x")], "input a: there is no node 'y'"),
        ({"x": NodeEntry("Add", {"a": 1})}, [Link("x", 3)], "output 0: Add has no output 3"),
        ({"x": NodeEntry("Add", {"a": 1})}, [Link("x"), Link("x")], "expands to 2 outputs, 1 are declared"),
        ({"x": NodeEntry("Add", {"a": Link("x")})}, [Link("x")], "in a circle: t.x -> t.x"),
        ({"x": NodeEntry("Add", {"a": "no"})}, [Link("x")], "inputs do not fit: a: .* got 'no'"),
    ],
)
def test_a_broken_expansion_fails_its_node(engine, monkeypatch, nodes, outputs, message):
    import re

    import running_nodes

    monkeypatch.setattr(running_nodes.Twice, "run", lambda self, ctx: ctx.expand(nodes, outputs))
    result = engine().run(doc(t=("Twice", {"a": 1}), s=("Show", {"what": "@t"})))
    assert re.search(message, result.failures[0].message), result.failures[0].message


def test_links_to_the_graph_around_are_kept_and_a_local_name_goes_first(engine):
    specs = engine().registry.specs
    made = Expansion({"a": NodeEntry("Add", {"a": Link("a", "INT"), "b": Link("out")})}, (Link("out"),))
    found = absolute(made, "p", {"out": NodeEntry("Number"), "a": NodeEntry("Number")}, specs)
    assert found.nodes["p.a"].inputs == {"a": Link("p.a", 0), "b": Link("out", 0)}
    assert found.outputs == (Link("out", 0),)


def test_a_name_that_is_taken_gets_a_mark(engine):
    nodes = {"t": ("Twice", {"a": 1}), "t.first": ("Number", {"value": 40}), "s": ("Sum", {"values": "@t"})}
    workflow = doc(**nodes)
    result = engine().run(workflow, wanted=["t", "t.first"])
    assert result["t"] == 3
    assert result.value("t.first") == 40


def test_what_a_node_sees_of_the_graph_is_in_its_key(engine, calls):
    e = engine()
    workflow = doc(a=("Around", {}), b=("Number", {"value": 1}), s=("Show", {"what": "@a"}))
    assert e.run(workflow)["a"] == 3
    calls.clear()
    assert e.run(workflow).executed == ()
    renamed = doc(x=("Around", {}), y=("Number", {"value": 1}), z=("Show", {"what": "@x"}))
    assert e.run(renamed).executed == ()
    assert e.run(workflow.set("b.value", 2)).executed == ("a",)
    more = doc(a=("Around", {}), b=("Number", {"value": 2}), c=("Number", {}), s=("Show", {"what": "@a"}))
    assert e.run(more)["a"] == 4


def test_what_a_node_sees_is_remembered_after_a_restart(engine, calls, tmp_path):
    workflow = doc(a=("Around", {}), s=("Show", {"what": "@a"}))
    first = engine(cache_dir=tmp_path / "c")
    first.run(workflow)
    first.close()
    assert engine(cache_dir=tmp_path / "c").run(workflow).executed == ()


def test_a_node_inside_may_be_the_same_computation_as_one_that_waits_for_it(engine, calls):
    """`b` is 0 + 1 once `d` is known to be 1, and so is a node that `d` expands to when it must run again."""
    e = engine(cache_bytes=1)
    workflow = doc(n=("Number", {"value": 0}), d=("Down", {"n": 1, "total": "@n"}), b=("Add", {"a": "@n", "b": "@d"}))
    for _ in range(2):
        result = e.run(workflow, wanted=["b"])
        assert result.status == "success", result.failures
        assert result["b"] == 1
