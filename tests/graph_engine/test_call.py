"""How inputs arrive: mapped over lists, whole, as lists of one; lazy inputs asked for; outputs read as declared."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from fakes import Blob
from running_nodes import Add, Choose, DivMod, Half, Repeat, Show, Sum, Until

from graph_engine.call import ask, call, collect, spread
from graph_engine.context import Context
from graph_engine.errors import NodeError
from graph_engine.node import Node
from graph_engine.record import Blocked

CTX = Context.silent()


def test_a_list_on_a_single_input_maps_and_shorter_lists_repeat_their_last():
    calls, mapped = spread(Add.spec, {"a": [1, 2, 3], "b": [10, 20]}, ["a", "b"])
    assert mapped
    assert calls == [{"a": 1, "b": 10}, {"a": 2, "b": 20}, {"a": 3, "b": 20}]


def test_an_empty_list_gives_no_call_whatever_the_others_hold():
    assert spread(Add.spec, {"a": [1, 2], "b": []}, ["a", "b"]) == ([], True)
    assert collect(DivMod.spec, []) == ([], [])


def test_a_list_input_takes_a_list_whole_and_a_single_value_as_a_list_of_one():
    assert spread(Sum.spec, {"values": [1, 2]}, ["values"]) == ([{"values": [1, 2]}], False)
    assert spread(Sum.spec, {"values": 5}, ["values"]) == ([{"values": [5]}], False)
    assert spread(Sum.spec, {"values": []}, ["values"]) == ([{"values": []}], False)


def test_an_input_of_any_type_takes_a_list_whole():
    assert spread(Show.spec, {"what": [1, 2]}, ["what"]) == ([{"what": [1, 2]}], False)


def test_literals_are_not_spread():
    assert spread(Show.spec, {"what": [1, 2]}, []) == ([{"what": [1, 2]}], False)


def test_results_of_calls_are_collected_and_lists_among_them_joined():
    assert collect(DivMod.spec, [(1, 2), (3, 4)]) == ([1, 3], [2, 4])
    assert collect(Repeat.spec, [([1, 1],), ([2],)]) == ([1, 1, 2],)


def test_a_node_is_asked_with_what_is_known():
    assert ask(Choose, {"first": True}) == ("one",)
    assert ask(Until, {"enough": 5}) == ("a",)
    assert ask(Until, {"enough": 5, "a": 3}) == ("a", "b")
    assert ask(Until, {"enough": 5, "a": 3, "b": 3}) == ("a", "b")


class Confused(Node, category="test"):
    a: int = 0

    def wants(self) -> Any:
        return "z"

    def run(self, ctx: Context) -> int:
        return 0


def test_a_wish_for_an_input_that_is_not_there_is_an_error():
    with pytest.raises(NodeError, match="asks for 'z', which is not an input"):
        ask(Confused, {})


def test_lazy_inputs_that_nobody_asked_for_may_be_missing():
    assert call(Choose, {"first": True, "one": 5}, CTX) == (5,)


def test_values_are_checked_and_widened_as_declared():
    assert call(Half, {"a": 3}, CTX) == (1.5,)
    with pytest.raises(NodeError, match=r"inputs do not fit: a: .*valid integer.*got Blob"):
        call(Add, {"a": Blob(None)}, CTX)


class Wrong(Node, category="test"):
    what: Any

    class Out(NamedTuple):
        a: int
        b: list[int]

    def run(self, ctx: Context) -> Out:
        return self.what


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (1, "2 outputs are declared: a, b"),
        ((1,), "2 outputs are declared"),
        (None, "returned None"),
        ((1, 2), "output b: a list is declared, 2 returned"),
    ],
)
def test_what_is_returned_must_be_what_is_declared(returned, message):
    with pytest.raises(NodeError, match=message):
        call(Wrong, {"what": returned}, CTX)


def test_a_tuple_will_do_for_a_list():
    assert call(Wrong, {"what": (1, (2, 3))}, CTX) == (1, [2, 3])


def test_a_blocked_input_blocks_every_output_and_drops_out_of_lists():
    assert call(DivMod, {"a": Blocked("why"), "b": 1}, CTX) == (Blocked("why"), Blocked("why"))
    assert spread(Sum.spec, {"values": [1, Blocked(), 2]}, ["values"])[0] == [{"values": [1, 2]}]
