from __future__ import annotations

from typing import Any

import pytest

from graph_engine.builder import Graph
from graph_engine.catalogue import Catalogue
from graph_engine.errors import WorkflowError
from graph_engine.registry import Registry
from graph_engine.validate import validate
from graph_engine.workflow import Constant, Link, NodeEntry, Workflow


@pytest.fixture
def g(registry: Registry) -> Graph:
    return Graph(registry)


def refused(call: Any, *args: Any, **inputs: Any) -> list[tuple[str, str | None]]:
    with pytest.raises(WorkflowError) as caught:
        call(*args, **inputs)
    return [(problem.code, problem.field) for problem in caught.value.problems]


def test_a_graph_writes_the_json_that_one_would_write_by_hand(g: Graph, registry: Registry) -> None:
    blank = g.Blank(width=128)
    split = g.Split(picture=blank)
    made = g.Stencilled(picture=split.picture, stencil=split["stencil"], _title="the middle")
    g.Show(picture=made, _id="end")
    assert g.workflow().to_json() == {
        "1": {"class_type": "Blank", "inputs": {"width": 128}, "_meta": {"version": 1}},
        "2": {"class_type": "Split", "inputs": {"picture": ["1", 0]}, "_meta": {"version": 1}},
        "3": {
            "class_type": "Stencilled",
            "inputs": {"picture": ["2", 1], "stencil": ["2", 0]},
            "_meta": {"title": "the middle", "version": 1},
        },
        "end": {"class_type": "Show", "inputs": {"picture": ["3", 0]}, "_meta": {"version": 1}},
    }
    assert validate(g.workflow(), registry.specs, registry=registry) == []
    assert Workflow.from_json(g.workflow().to_json()) == g.workflow()


def test_registry_catalogue_and_specs_all_do(registry: Registry) -> None:
    for nodes in (registry, Catalogue.of(registry), registry.specs):
        assert list(Graph(nodes).Blank().spec.outputs) == list(registry.specs["Blank"].outputs)


def test_outputs_are_attributes_items_and_a_sequence(g: Graph) -> None:
    split = g.Split(picture=g.Blank())
    assert split.picture is split["picture"] is split[1]
    assert split["STENCIL"] is split[0]
    assert [output.name for output in split] == ["stencil", "picture"]
    assert len(split) == 2
    assert {"stencil", "picture"} <= set(dir(split))
    assert g.Blank().PICTURE.link == Link("3", 0)
    stencil, picture = split
    assert (stencil.types, picture.types) == (("STENCIL",), ("PICTURE",))
    assert repr(stencil) == "<STENCIL 2.stencil>"
    with pytest.raises(AttributeError, match="did you mean 'picture'"):
        split.pictrue  # noqa: B018
    with pytest.raises(KeyError, match="did you mean 'picture'"):
        split["pictrue"]
    with pytest.raises(IndexError):
        split[2]


def test_the_types_are_offered_and_unknown_ones_refused(g: Graph) -> None:
    assert "Blur" in dir(g)
    assert not hasattr(g, "__length_hint__")
    with pytest.raises(AttributeError, match="no node type 'Blurr' is installed; did you mean 'Blur'"):
        g.Blurr(picture=g.Blank())
    assert refused(g["Blurr"]) == [("unknown_node", None)]
    assert g["Old picture"]().spec.type == "Old picture"
    assert g.add("Old picture", {}).spec.type == "Old picture"
    assert g.Blur.__doc__ == "Mixes a picture with grey."


def test_everything_wrong_with_a_node_is_told_at_once(g: Graph) -> None:
    word = g.Word(text="x")
    with pytest.raises(WorkflowError) as caught:
        g.Blur(picture=word, amuont=0.5, mode="sfot", amount=7)
    said = [str(problem) for problem in caught.value.problems]
    assert len(said) == 4
    assert "STRING given by <STRING 1.STRING>, PICTURE wanted" in said[0]
    assert "did you mean 'amount'?" in said[1]
    assert "'sfot' is not one of the choices" in said[2]
    assert "7 is bigger than 1" in said[3]
    assert list(g.workflow().nodes) == ["1"]


@pytest.mark.parametrize(
    ("type", "inputs", "found"),
    [
        ("Blur", {}, [("required_input_missing", "picture")]),
        ("Blur", {"picture": 5}, [("socket_needs_link", "picture")]),
        ("Blur", {"picture": None}, [("socket_needs_link", "picture")]),
        ("Whole", {"value": "5"}, [("wrong_type", "value")]),
        ("Whole", {"value": object()}, [("wrong_type", "value")]),
        ("Total", {"values": []}, [("value_too_short", "values")]),
        ("Total", {"values": [Link("1", 0)]}, [("bad_link", "values")]),
    ],
)
def test_wrong_inputs(g: Graph, type: str, inputs: dict[str, Any], found: list[Any]) -> None:
    assert refused(g.add, type, inputs) == found


def test_a_node_with_several_outputs_or_none_must_be_told_apart(g: Graph) -> None:
    split = g.Split(picture=g.Blank())
    assert refused(g.Blur, picture=split) == [("unknown_output", "picture")]
    assert refused(g.Blur, picture=g.Show(picture=split.picture)) == [("unknown_output", "picture")]
    assert refused(lambda: split.link) == [("unknown_output", None)]


def test_type_variables_are_settled_on_the_spot(g: Graph) -> None:
    number = g.Switch(first=True, one=g.Whole(value=1), other=g.Real(value=0.5))
    assert number.value.types == ("FLOAT",)
    either = g.Switch(first=g.Tell and True, one=g.Snapshot(), other=g.Blank())
    assert either.value.types == ("PICTURE",)
    g.Blur(picture=either)
    assert refused(g.Blur, picture=number) == [("socket_mismatch", "picture")]
    assert refused(g.Switch, first=True, one=g.Blank(), other=g.Word(text="")) == [("socket_mismatch", "other")]


def test_links_constants_and_lists_pass(g: Graph) -> None:
    constant = Constant(object(), "key")
    g.Blur(picture=constant)
    g.Blur(picture=Link("elsewhere", "PICTURE"))
    g.Total(values=(1, 2))
    assert g.workflow().nodes["1"] == NodeEntry("Blur", {"picture": constant}, None, 1)
    assert g.workflow().nodes["2"].inputs == {"picture": Link("elsewhere", "PICTURE")}
    assert g.workflow().nodes["3"].inputs == {"values": [1, 2]}


def test_ids_count_on_and_stay_unique(registry: Registry) -> None:
    g = Graph(registry, prefix="7.0.")
    assert [g.Blank().id, g.Blank(_id="7.0.2").id, g.Blank().id] == ["7.0.1", "7.0.2", "7.0.3"]
    assert refused(g.Blank, _id="7.0.1") == [("duplicate_name", None)]


def test_an_output_of_another_graph_is_refused(g: Graph, registry: Registry) -> None:
    other = Graph(registry)
    assert refused(g.Blur, picture=other.Blank()) == [("dangling_link", "picture")]


def test_the_document_does_not_grow_with_the_graph(g: Graph) -> None:
    g.Blank()
    before = g.workflow()
    g.Blank()
    assert len(before.nodes) == 1
