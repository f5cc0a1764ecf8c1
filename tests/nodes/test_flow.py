"""Counting, choosing and looping, run by the engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from graph_engine.builder import Graph
from graph_engine.context import Context
from graph_engine.device import HostDevice
from graph_engine.engine import Engine
from graph_engine.errors import NodeError, WorkflowError
from graph_engine.node import Node
from graph_engine.registry import Registry
from nodes.flow import ForEach, ForEachEnd, Lines, Range, Switch

ran: list[str] = []


class Plus(Node, category="test"):
    a: int
    b: int = 1

    def run(self, ctx: Context) -> int:
        ran.append(ctx.node)
        return self.a + self.b


class Note(Node, category="test", output=True):
    what: int

    def run(self, ctx: Context) -> None:
        ran.append(ctx.node)
        ctx.show(text=str(self.what))


class Break(Node, category="test"):
    a: int
    at: int = -1

    def run(self, ctx: Context) -> int:
        if self.a == self.at:
            raise NodeError(f"not {self.a}")
        return self.a


@pytest.fixture
def engine() -> Iterator[Engine]:
    ran.clear()
    with Engine(Registry.of(Lines, Range, Switch, ForEach, ForEachEnd, Plus, Note, Break), device=HostDevice(), debug=True) as made:
        yield made


def graph(engine: Engine) -> Any:
    return Graph(engine.registry)


def test_each_line_of_a_text_runs_what_follows_once(engine):
    g = graph(engine)
    lines = g.Lines(text="  a cat\n\n\ta dog \n")
    loop = g.ForEach(items=lines)
    end = g.ForEachEnd(loop=loop.loop, result=loop.item)
    assert engine.run(g)[f"{end.results.node}.results"] == ["a cat", "a dog"]


def test_a_counted_number_goes_wherever_a_number_does():
    assert Range.spec.outputs[0].types == ("INT", "FLOAT")


@pytest.mark.parametrize(("start", "stop", "step"), [(0, 4, 1), (5, 0, -2), (3, 3, 1), (0, -3, 1)])
def test_range_counts_as_python_does(start, stop, step):
    assert Range(start=start, stop=stop, step=step).run(Context.silent()) == list(range(start, stop, step))


def test_range_refuses_what_never_arrives(engine):
    g = graph(engine)
    g.Note(what=g.Range(step=0))
    with pytest.raises(WorkflowError, match="0 never arrives"):
        engine.run(g)
    with pytest.raises(NodeError, match="more than a million"):
        Range(stop=10**9).run(Context.silent())


@pytest.mark.parametrize("switch", [True, False])
def test_switch_computes_one_branch(engine, switch):
    g = graph(engine)
    g.Note(what=g.Switch(switch=switch, on_true=g.Plus(a=1, _id="yes"), on_false=g.Plus(a=2, _id="no"), _id="s"))
    result = engine.run(g)
    assert result["s"] == (2 if switch else 3)
    assert ran[0] == ("yes" if switch else "no")
    assert len(ran) == 2


def test_a_range_maps_what_takes_single_values(engine):
    g = graph(engine)
    g.Plus(a=g.Range(stop=3), b=10, _id="p")
    assert engine.run(g, wanted=["p"])["p"] == [10, 11, 12]


def loop(engine: Engine, items: Any, initial: Any = 0) -> Any:
    g = graph(engine)
    f = g.ForEach(items=items(g), initial=initial, _id="start")
    total = g.Plus(a=f.carried, b=f.item, _id="total")
    g.Note(what=g.Plus(a=f.item, b=f.index, _id="sum"), _id="note")
    end = g.ForEachEnd(loop=f.loop, result=total, carried=total, _id="end")
    g.Note(what=end.carried, _id="after")
    return g


def test_a_loop_carries_its_value_and_collects_results(engine):
    result = engine.run(loop(engine, lambda g: g.Range(start=1, stop=5), 100))
    assert result["end.results"] == [101, 103, 106, 110]
    assert result["end.carried"] == 110
    assert result["end.2.total"] == 106
    assert sorted(node for node in ran if "note" in node) == [f"end.{i}.note" for i in range(4)]
    assert ran[-1] == "after"


def test_turns_run_one_after_another(engine):
    engine.run(loop(engine, lambda g: g.Range(stop=5)))
    turns = [int(node.split(".")[1]) for node in ran if node.startswith("end.") and "note" not in node]
    assert turns == sorted(turns)


def test_a_loop_over_nothing_gives_its_initial_value(engine):
    result = engine.run(loop(engine, lambda g: g.Range(stop=0), 7))
    assert (result["end.results"], result["end.carried"]) == ([], 7)
    assert ran == ["after"]


def test_an_unchanged_loop_is_cached_and_a_longer_one_continues_it(engine):
    engine.run(loop(engine, lambda g: g.Range(stop=4)))
    ran.clear()
    again = engine.run(loop(engine, lambda g: g.Range(stop=4)))
    assert (ran, again.executed) == ([], ())
    assert again["end.results"] == [0, 1, 3, 6]
    engine.run(loop(engine, lambda g: g.Range(stop=5)))
    assert ran == ["end.4.sum", "end.4.note", "end.4.total", "after"] or set(ran) == {"end.4.sum", "end.4.note", "end.4.total", "after"}


def test_a_change_in_the_body_is_seen(engine):
    g = loop(engine, lambda g: g.Range(stop=2)).workflow()
    engine.run(g)
    assert engine.run(g.set("sum.b", 5)).status == "success"
    assert {node for node in engine.run(g.set("sum.b", 60)).executed if "." in node} == {
        "end.0.sum",
        "end.0.note",
        "end.1.sum",
        "end.1.note",
    }


def nested(engine: Engine, outer: int, inner: int) -> Any:
    g = graph(engine)
    f = g.ForEach(items=g.Range(stop=outer), initial=0)
    h = g.ForEach(items=g.Range(stop=inner), initial=f.carried)
    total = g.Plus(a=h.carried, b=g.Plus(a=h.item, b=f.item))
    inside = g.ForEachEnd(loop=h.loop, result=total, carried=total, _id="inside")
    g.ForEachEnd(loop=f.loop, result=inside.carried, carried=inside.carried, _id="end")
    return g


@pytest.mark.parametrize(("outer", "inner"), [(3, 4), (1, 1), (3, 0), (0, 3), (30, 10)])
def test_nested_loops(engine, outer, inner):
    total, expected = 0, []
    for i in range(outer):
        for j in range(inner):
            total += i + j
        expected.append(total)
    result = engine.run(nested(engine, outer, inner))
    assert result["end.results"] == expected
    assert result["end.carried"] == total


def test_an_inner_loop_that_does_not_depend_on_the_outer_one_runs_once(engine):
    g = graph(engine)
    f = g.ForEach(items=g.Range(stop=3))
    h = g.ForEach(items=g.Range(stop=2), initial=0)
    inside = g.ForEachEnd(loop=h.loop, carried=g.Plus(a=h.carried, b=h.item, _id="once"), _id="inner")
    g.ForEachEnd(loop=f.loop, result=g.Plus(a=f.item, b=inside.carried), _id="end")
    assert engine.run(g)["end.results"] == [1, 2, 3]
    assert sum("once" in node for node in ran) == 2


def test_results_of_one_loop_are_the_items_of_the_next(engine):
    g = graph(engine)
    f = g.ForEach(items=g.Range(stop=3))
    first = g.ForEachEnd(loop=f.loop, result=g.Plus(a=f.item, b=10))
    h = g.ForEach(items=first.results, initial=0)
    g.ForEachEnd(loop=h.loop, result=g.Plus(a=h.item, b=h.index), _id="end")
    assert engine.run(g)["end.results"] == [10, 12, 14]


def test_a_failing_turn_is_named_and_earlier_turns_are_kept(engine):
    g = graph(engine)
    f = g.ForEach(items=g.Range(stop=3))
    g.ForEachEnd(loop=f.loop, result=g.Break(a=f.item, at=1, _id="b"), _id="end")
    result = engine.run(g)
    (failure,) = result.failures
    assert (failure.node, failure.parent) == ("end.1.b", "end")
    assert result["end.0.b"] == 0


def test_inside_a_loop_nothing_has_a_value_outside_it(engine):
    g = loop(engine, lambda g: g.Range(stop=2))
    result = engine.run(g, wanted=["total"])
    assert "inside a loop" in result.failures[0].message


def test_the_end_wants_the_loop_itself(engine):
    g = graph(engine)
    f = g.ForEach(items=g.Range(stop=2))
    g.ForEachEnd(loop=g.Switch(switch=True, on_true=f.loop, on_false=f.loop), result=f.item, _id="end")
    assert "link it to the output `loop` of ForEach itself" in engine.run(g).failures[0].message


def test_ids_that_look_like_copies_are_told_apart(engine):
    g = graph(engine)
    given = g.Plus(a=100, b=0, _id="0.p")
    f = g.ForEach(items=g.Range(stop=2))
    g.ForEachEnd(loop=f.loop, result=g.Plus(a=f.item, b=given, _id="p"), _id="end")
    assert engine.run(g)["end.results"] == [100, 101]


def test_a_long_loop(engine):
    result = engine.run(loop(engine, lambda g: g.Range(stop=2000)), wanted=["end"])
    assert result["end.carried"] == 1999 * 2000 // 2
