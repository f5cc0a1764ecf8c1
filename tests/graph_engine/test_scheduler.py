"""The state machine alone: orders, revival of values that are gone, failures, growth, and what is held when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graph_engine.scheduler import Scheduler, State


class Driver:
    """Runs a scheduler to its end, keeping values as it is told, and dropping all others at once."""

    def __init__(self, graph, hits=(), gone=()):
        self.graph = graph
        self.values: set[str] = set()
        self.held: set[str] = set()
        self.ran: list[str] = []
        self.hits, self.gone = set(hits), set(gone)
        self.scheduler = Scheduler(lambda name: name in self.values)

    def changes(self):
        for name, needed in self.scheduler.changes():
            if needed:
                self.held.add(name)
            else:
                self.held.discard(name)
                self.values.discard(name)

    def run(self, fail=()):
        s = self.scheduler
        while not s.finished:
            if (name := s.take_ripe()) is not None:
                if name in self.hits:
                    if name not in self.gone:
                        self.values.add(name)
                    s.hit(name)
                else:
                    s.miss(name)
            elif (name := s.take_ready()) is not None:
                assert all(need in self.values for need in self.graph[name]), "an input is gone"
                self.ran.append(name)
                if name in fail:
                    s.fail(name)
                else:
                    self.values.add(name)
                    s.done(name)
            else:
                raise AssertionError(f"stuck: {s.unfinished()}")
            self.changes()
        return self.ran


def add(scheduler, graph):
    for place, (name, needs) in enumerate(graph.items()):
        scheduler.add(name, needs, (place,))


def drive(graph, fail=(), **options):
    driver = Driver(graph, **options)
    add(driver.scheduler, graph)
    driver.run(fail=fail)
    return driver


DIAMOND = {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"]}


def test_everything_runs_once_in_order_and_nothing_is_held_in_the_end():
    driver = drive(DIAMOND)
    assert driver.ran == ["a", "b", "c", "d"]
    assert not driver.held


def test_hits_do_not_run_and_a_missing_consumer_finds_their_values():
    assert drive(DIAMOND, hits="abc").ran == ["d"]


def test_values_that_are_gone_are_made_again_only_when_needed():
    assert drive(DIAMOND, hits="abc", gone="abc").ran == ["a", "b", "c", "d"]
    assert drive(DIAMOND, hits="abcd", gone="abcd").ran == []


def test_a_failure_skips_what_needs_it_and_nothing_else():
    driver = drive(DIAMOND, fail="b")
    assert driver.ran == ["a", "b", "c"]
    states = {name: driver.scheduler.state(name) for name in DIAMOND}
    assert states == {"a": State.SETTLED, "b": State.FAILED, "c": State.SETTLED, "d": State.SKIPPED}
    assert not driver.held


def test_a_node_added_behind_a_failure_is_skipped():
    driver = drive({"a": []}, fail="a")
    driver.scheduler.add("b", ["a"], (1,))
    assert driver.scheduler.finished
    assert driver.scheduler.state("b") is State.SKIPPED


def test_a_node_can_come_to_need_more():
    s = Scheduler(lambda name: True)
    add(s, {"a": [], "b": []})
    assert s.take_ripe() == "a"
    s.need("a", ["b"])
    assert s.take_ripe() == "b"
    assert s.take_ripe() is None
    s.hit("b")
    assert s.take_ripe() == "a"


def test_a_node_can_need_values_to_be_looked_up():
    graph = {"a": [], "b": ["a"]}
    driver = Driver(graph, hits="a", gone="a")
    s = driver.scheduler
    add(s, graph)
    s.hit(s.take_ripe())
    assert s.take_ripe() == "b"
    s.need_values("b", ["a"])
    assert s.take_ripe() is None
    assert s.take_ready() == "a"
    driver.values.add("a")
    s.done("a")
    assert s.take_ripe() == "b"


def test_an_expanded_node_lets_go_of_its_inputs_and_waits_for_what_it_stands_for():
    s = Scheduler(lambda name: True)
    add(s, {"a": [], "b": ["a"]})
    s.hit(s.take_ripe())
    s.miss(s.take_ripe())
    assert s.take_ready() == "b"
    assert s.changes() == [("a", True)]
    s.add("b.x", [], (2,))
    s.expand("b", ["b.x"])
    assert s.changes() == [("a", False)]
    assert s.take_ready() is None
    s.miss(s.take_ripe())
    assert s.take_ready() == "b.x"
    s.done("b.x")
    assert s.take_ready() == "b"


def test_a_value_that_turns_out_damaged_is_made_again_and_its_reader_waits():
    s = Scheduler(lambda name: name in present)
    present = {"a"}
    add(s, {"a": [], "b": ["a"], "c": ["a"]})
    s.hit(s.take_ripe())
    s.miss(s.take_ripe())
    s.miss(s.take_ripe())
    assert s.take_ready() == "b"
    present.clear()
    s.lost("a", "b")
    assert s.take_ready() == "a"
    assert s.take_ready() is None
    present.add("a")
    s.done("a")
    assert {s.take_ready(), s.take_ready()} == {"b", "c"}


def test_cancelling_leaves_only_what_runs():
    s = Scheduler(lambda name: True)
    add(s, {"a": [], "b": [], "c": ["a"]})
    s.miss(s.take_ripe())
    assert s.take_ready() == "a"
    assert s.cancel() == ["a"]
    assert not s.finished
    s.done("a")
    assert s.finished
    assert s.state("c") is State.SKIPPED


def test_a_wrong_move_is_refused():
    s = Scheduler(lambda name: True)
    add(s, {"a": []})
    with pytest.raises(RuntimeError, match="node a is ripe, not running"):
        s.done("a")


LONG = {str(i): [str(i - 1)] if i else [] for i in range(5_000)}


def test_a_long_chain_is_revived_without_recursion():
    assert drive(LONG, hits=[*LONG][:-1], gone=LONG).ran == [*LONG]


def test_a_long_chain_is_skipped_without_recursion():
    driver = drive(LONG, fail=["0"])
    assert driver.ran == ["0"]
    assert driver.scheduler.state("4999") is State.SKIPPED


graphs = st.integers(1, 12).flatmap(
    lambda n: st.tuples(
        st.just(n),
        st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=30),
        st.sets(st.integers(0, n - 1)),
        st.sets(st.integers(0, n - 1)),
        st.sets(st.integers(0, n - 1), max_size=2),
    )
)


@given(graphs)
def test_random_graphs_end_with_every_node_accounted_for(made):
    """Hits, values that are gone, and failures in any mixture: no deadlock, no missing input, nothing held in the end."""
    n, edges, hits, gone, fail = made
    graph = {str(i): [str(a) for a, b in edges if b == i and a < i] for i in range(n)}
    driver = drive(graph, fail=set(map(str, fail)), hits=map(str, hits), gone=map(str, gone))
    ran = driver.ran
    if not gone:  # what a node that was known needs may be dropped before that node turns out to be gone
        assert len(ran) == len(set(ran))
    assert not driver.held
    failed = {name for name in ran if name in set(map(str, fail))}
    for name, needs in graph.items():
        state = driver.scheduler.state(name)
        if name in failed:
            assert state is State.FAILED
        elif any(driver.scheduler.state(need) in (State.FAILED, State.SKIPPED) for need in needs):
            assert state is State.SKIPPED or name in driver.hits or name in ran
        else:
            assert state is State.SETTLED
            assert name in driver.hits or name in ran
