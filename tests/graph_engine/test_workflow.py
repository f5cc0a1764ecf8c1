from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graph_engine.errors import GraphError, WorkflowError
from graph_engine.registry import Registry
from graph_engine.workflow import Constant, Link, NodeEntry, Workflow

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
LINKS = st.builds(Link, st.text(max_size=4), st.integers(-3, 9) | st.text(max_size=4))
ENTRIES = st.builds(
    NodeEntry,
    st.text(min_size=1, max_size=9).map(str.strip),
    st.dictionaries(st.text(max_size=5), JSON | LINKS, max_size=4),
    st.none() | st.text(min_size=1, max_size=5),
    st.none() | st.integers(1, 9),
    st.dictionaries(st.text(max_size=5).filter(lambda key: key not in ("title", "version")), JSON, max_size=2),
)
WORKFLOWS = st.builds(Workflow, st.dictionaries(st.text(max_size=4), ENTRIES, max_size=4))

GRAPH = {
    "1": {"class_type": "Blank", "inputs": {"width": 64}},
    "4": {"class_type": "Blur", "inputs": {"picture": ["1", 0], "amount": 0.5}, "_meta": {"title": "first.blur", "ver": "x"}},
    "7": {"class_type": "Blur", "inputs": {"picture": ["4", "PICTURE"]}, "_meta": {"title": "second", "version": 1}},
    "8": {"class_type": "Total", "inputs": {"values": {"__value__": [1, 2]}}},
}


def test_white_space_round_a_node_type_is_not_a_part_of_it() -> None:
    """Old graphs hold `ConditioningAverage `."""
    assert Workflow.from_json({"1": {"class_type": "Blank ", "inputs": {}}}).nodes["1"].class_type == "Blank"


@given(WORKFLOWS)
def test_writing_and_reading_gives_the_same_document(workflow: Workflow) -> None:
    text = json.dumps(workflow.to_json())
    assert Workflow.from_json(text) == workflow
    assert Workflow.from_json(text.encode()) == workflow
    assert Workflow.from_json(workflow.to_json()) == workflow


def test_a_document_reads_as_it_is_written() -> None:
    workflow = Workflow.from_json(GRAPH)
    assert workflow.faults == ()
    assert workflow.to_json() == GRAPH
    assert workflow.nodes["4"] == NodeEntry("Blur", {"picture": Link("1", 0), "amount": 0.5}, "first.blur", None, {"ver": "x"})
    assert workflow.nodes["7"].version == 1
    assert workflow.nodes["8"].inputs["values"] == [1, 2]
    assert list(workflow.links()) == [("4", "picture", Link("1", 0)), ("7", "picture", Link("4", "PICTURE"))]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (["3", 0], Link("3", 0)),
        (["3", 0.0], Link("3", 0)),
        (["3", "IMAGE"], Link("3", "IMAGE")),
        ({"__value__": ["3", 0]}, ["3", 0]),
        ({"__type__": "CURVE", "__value__": [1]}, [1]),
        ({"__value__": 5}, 5),
        ({"__value__": 5, "more": 1}, {"__value__": 5, "more": 1}),
        ([3, 0], [3, 0]),
        (["3", 0, 0], ["3", 0, 0]),
        (["3", True], ["3", True]),
        (["3", 0.5], ["3", 0.5]),
        ([], []),
        ({}, {}),
    ],
)
def test_links_and_values_are_told_apart(written: Any, read: Any) -> None:
    assert Workflow.from_json({"1": {"class_type": "X", "inputs": {"a": written}}}).nodes["1"].inputs == {"a": read}


def test_what_is_not_a_number_in_json_is_read_as_null() -> None:
    text = '{"1": {"class_type": "X", "inputs": {"a": NaN, "b": [Infinity, -Infinity]}}}'
    assert Workflow.from_json(text).nodes["1"].inputs == {"a": None, "b": [None, None]}


def test_a_byte_order_mark_and_a_schema_are_passed_over() -> None:
    text = "\ufeff" + json.dumps({"$schema": "./schema.json", **GRAPH})
    assert Workflow.from_json(text) == Workflow.from_json(GRAPH)
    assert Workflow.from_json(text.encode()) == Workflow.from_json(GRAPH)


@pytest.mark.parametrize(
    ("document", "code"),
    [
        ("{", "bad_json"),
        ("", "bad_json"),
        ("nonsense", "bad_json"),
        ("[" * 100_000, "bad_json"),
        ('{"1": ' + "9" * 5000 + "}", "bad_json"),
        (b"\xff\xfe\x00", "bad_json"),
        (b"\x00\x01\x02\x80", "bad_json"),
        ("[]", "bad_document"),
        ("5", "bad_document"),
        (None, "bad_document"),
        ({"nodes": [], "links": [], "version": 0.4}, "editor_format"),
    ],
)
def test_what_is_no_workflow_at_all_is_refused(document: Any, code: str) -> None:
    with pytest.raises(WorkflowError) as caught:
        Workflow.from_json(document)
    assert [problem.code for problem in caught.value.problems] == [code]
    assert caught.value.problems[0].hint


@pytest.mark.parametrize(
    ("document", "faults"),
    [
        ({"1": 5}, [("1", "not_a_node", None)]),
        ({"1": None, "2": []}, [("1", "not_a_node", None), ("2", "not_a_node", None)]),
        ({"1": {"class_type": 5}}, [("1", "unknown_node", "class_type")]),
        ({"1": {"class_type": "X", "inputs": []}}, [("1", "bad_inputs", "inputs")]),
        ({"1": {"class_type": "X", "_meta": {"version": 0}}}, [("1", "bad_version", "_meta.version")]),
        ({"1": {"class_type": "X", "_meta": {"version": "2"}}}, [("1", "bad_version", "_meta.version")]),
        ({"1": {"class_type": "X", "_meta": 5}}, []),
        ({"1": {"class_type": "X", "_meta": {"title": 5}}}, []),
        ('{"1": {"class_type": "X"}, "1": {"class_type": "Y"}}', [(None, "duplicate_name", None)]),
    ],
)
def test_mistakes_of_form_are_all_noted(document: Any, faults: list[Any]) -> None:
    found = Workflow.from_json(document).faults
    assert [(fault.node, fault.code, fault.field) for fault in found] == faults


@given(JSON)
def test_any_json_is_read_or_refused_in_words(document: Any) -> None:
    try:
        faults: Any = Workflow.from_json(document).faults
    except WorkflowError as error:
        faults = error.problems
    else:
        assert all(fault.message for fault in faults)
        return
    assert faults


def test_finding_a_node() -> None:
    workflow = Workflow.from_json(GRAPH)
    assert [workflow.find(name) for name in ("4", "first.blur", "SECOND", "blank", "Total")] == ["4", "4", "7", "1", "8"]


@pytest.mark.parametrize(
    ("name", "code", "hint"),
    [
        ("Blur", "ambiguous_node", "use an id: 4, 7"),
        ("secnd", "no_such_node", "did you mean 'second'?"),
        ("xyz!", "no_such_node", "nodes: 1 (Blank), 4 (first.blur), 7 (second), 8 (Total)"),
    ],
)
def test_a_node_that_cannot_be_found(name: str, code: str, hint: str) -> None:
    with pytest.raises(WorkflowError) as caught:
        Workflow.from_json(GRAPH).find(name)
    assert (caught.value.problems[0].code, caught.value.problems[0].hint) == (code, hint)


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("4.amount", ("4", "amount")),
        ("first.blur.amount", ("4", "amount")),
        ("second.amount", ("7", "amount")),
        ("Blank.width", ("1", "width")),
        ("second.dotted.name", ("7", "dotted.name")),
    ],
)
def test_an_address_names_a_node_and_an_input(address: str, place: tuple[str, str]) -> None:
    assert Workflow.from_json(GRAPH).locate(address) == place


def test_with_declarations_an_address_must_name_a_declared_input(registry: Registry) -> None:
    workflow = Workflow.from_json(GRAPH)
    assert workflow.locate("second.mode", registry.specs) == ("7", "mode")
    with pytest.raises(WorkflowError, match=r"Blur has no input 'amuont' - did you mean 'amount'\?"):
        workflow.locate("second.amuont", registry.specs)


@pytest.mark.parametrize("address", ["amount", "", ".", "4.", "nobody.amount", "Blur.amount"])
def test_a_wrong_address_is_refused(address: str) -> None:
    with pytest.raises(WorkflowError):
        Workflow.from_json(GRAPH).locate(address)


def test_setting_gives_a_new_document() -> None:
    workflow = Workflow.from_json(GRAPH)
    changed = workflow.set("second.picture", Link("1", 0)).set("4.amount", [1, 2])
    assert changed.nodes["7"].inputs == {"picture": Link("1", 0)}
    assert changed.to_json()["4"]["inputs"]["amount"] == {"__value__": [1, 2]}
    assert workflow.to_json() == GRAPH


def test_what_lives_in_memory_only_is_never_written() -> None:
    workflow = Workflow({"1": NodeEntry("X", {"a": Constant(object(), "key")})})
    with pytest.raises(GraphError, match="input a: "):
        workflow.to_json()


def test_files_are_written_whole_and_read_back(tmp_path: Path) -> None:
    workflow = Workflow.from_json(GRAPH).set("4.amount", "\ud800 ü")
    workflow.save(tmp_path / "w.json")
    assert Workflow.load(tmp_path / "w.json") == workflow
    assert "ü" in (tmp_path / "w.json").read_text("utf-8")
    with pytest.raises(ValueError, match="JSON compliant"):
        workflow.set("4.amount", float("nan")).save(tmp_path / "w.json")
    assert Workflow.load(tmp_path / "w.json") == workflow
    assert [path.name for path in tmp_path.iterdir()] == ["w.json"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WorkflowError, match=r"cannot read .*gone\.json: No such file"):
        Workflow.load(tmp_path / "gone.json")
    with pytest.raises(WorkflowError, match="cannot read"):
        Workflow.load(tmp_path)
