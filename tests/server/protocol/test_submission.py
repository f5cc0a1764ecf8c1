"""From the body of a POST to what runs of it, and why the rest does not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from told_nodes import SPECS, doc

from graph_engine import Problem
from graph_engine.editor.definitions import definition
from server.protocol.messages import encode
from server.protocol.submission import Declined, Submission, body_of

GOOD = doc(n=("Number", {"value": 3}), s=("Show", {"what": "@n"}))
MIXED = doc(
    n=("Number", {"value": 3}),
    b=("Number", {"value": 300}),
    s=("Show", {"what": "@n"}),
    t=("Show", {"what": "@b"}),
    u=("Show", {}),
    loose=("Add", {"b": "unreached"}),
)


def definitions() -> dict[str, Any]:
    return {type: definition(spec, lambda entry: ()) for type, spec in SPECS.items()}


def read(body: Any = None, **fields: Any) -> Submission:
    data = json.dumps({"prompt": GOOD, **fields} if body is None else body).encode()
    return Submission.read(data, SPECS, None, definitions)


def declined(body: Any = None, **fields: Any) -> dict[str, Any]:
    with pytest.raises(Declined) as raised:
        read(body, **fields).settle()
    assert raised.value.status == 400
    assert raised.value.body.keys() == {"error", "node_errors"}
    assert raised.value.body["error"].keys() == {"type", "message", "details", "extra_info"}
    json.loads(encode(raised.value.body))
    return dict(raised.value.body)


def test_a_good_prompt_runs_all_its_outputs_as_it_was_sent():
    new, errors = read(client_id="me", prompt=GOOD).settle()
    assert (new.document, new.targets, new.client, new.front, new.number, errors) == (GOOD, ("s",), "me", False, None, {})
    assert len(new.id) == 36
    assert isinstance(new.extra["create_time"], int)


def test_valid_outputs_run_when_others_cannot():
    new, errors = read(prompt=MIXED).settle()
    assert new.targets == ("s",)
    assert new.document == MIXED
    assert errors.keys() == {"b", "u"}
    assert (errors["b"]["dependent_outputs"], errors["u"]["dependent_outputs"]) == (["t"], ["u"])
    assert errors["b"]["errors"][0]["type"] == "value_bigger_than_max"


def test_nothing_runs_when_every_output_is_wrong():
    del MIXED["s"]
    answer = declined(prompt=MIXED)
    MIXED["s"] = doc(s=("Show", {"what": "@n"}))["s"]
    assert answer["error"]["type"] == "prompt_outputs_failed_validation"
    assert answer["node_errors"].keys() == {"b", "u"}
    assert "value: 300" in answer["error"]["details"]


def test_an_error_that_several_outputs_share_names_them_all():
    document = doc(b=("Number", {"value": -1}), a=("Add", {"a": "@b"}), s=("Show", {"what": "@a"}), t=("Show", {"what": "@b"}))
    answer = declined(prompt=document)
    assert answer["node_errors"].keys() == {"b"}  # not those that only depend on it
    assert answer["node_errors"]["b"]["dependent_outputs"] == ["s", "t"]


def test_only_the_outputs_asked_for_are_run_and_judged():
    new, errors = read(prompt=MIXED, partial_execution_targets=["s"]).settle()
    assert (new.targets, errors) == (("s",), {})
    assert declined(prompt=MIXED, partial_execution_targets=["t"])["node_errors"].keys() == {"b"}
    assert declined(prompt=MIXED, partial_execution_targets=["n", "zz"])["error"]["type"] == "prompt_no_outputs"
    assert declined(prompt=MIXED, partial_execution_targets=[])["error"]["type"] == "prompt_no_outputs"


def test_an_unknown_type_anywhere_stops_everything():
    answer = declined(prompt={**GOOD, "x": {"class_type": "Nmber", "inputs": {}, "_meta": {"title": "Mine"}}})
    assert answer["error"]["type"] == "missing_node_type"
    assert answer["node_errors"] == {}
    info = answer["error"]["extra_info"]
    assert (info["node_id"], info["class_type"], info["node_title"]) == ("x", "Nmber", "Mine")
    assert "Number" in answer["error"]["details"]


@pytest.mark.parametrize("node", [{}, {"inputs": {}}, {"class_type": None}, {"class_type": 3}, 5, None, [], "x"])
def test_what_is_no_node_is_a_missing_type(node):
    answer = declined(prompt={**GOOD, "x": node})
    assert (answer["error"]["type"], answer["error"]["extra_info"]["node_id"]) == ("missing_node_type", "x")


def test_a_graph_without_outputs():
    assert declined(prompt=doc(n=("Number", {})))["error"]["type"] == "prompt_no_outputs"
    assert declined(prompt={})["error"]["type"] == "prompt_no_outputs"


def test_no_prompt():
    for body in ({}, {"prompt": None}, {"client_id": "me"}):
        assert declined(body)["error"]["type"] == "no_prompt"
    for prompt in ([], 5, "text", True):
        assert declined(prompt=prompt)["error"]["type"] == "invalid_prompt"


@pytest.mark.parametrize(
    ("field", "value", "type"),
    [
        ("prompt_id", "x", "invalid_prompt_id"),
        ("prompt_id", "6BA7B810-9DAD-11D1-80B4-00C04FD430C8", "invalid_prompt_id"),
        ("prompt_id", "6ba7b8109dad11d180b400c04fd430c8", "invalid_prompt_id"),
        ("prompt_id", 5, "invalid_prompt_id"),
        ("client_id", ["x"], "invalid_client_id"),
        ("client_id", "x" * 257, "invalid_client_id"),
        ("number", "x", "invalid_number"),
        ("number", True, "invalid_number"),
        ("number", 10**400, "invalid_number"),
        ("extra_data", [], "invalid_extra_data"),
        ("partial_execution_targets", "s", "invalid_targets"),
        ("partial_execution_targets", [[]], "invalid_targets"),
    ],
)
def test_a_field_of_the_wrong_kind_is_refused(field, value, type):
    assert declined(**{field: value})["error"]["type"] == type


def test_the_fields_are_taken_over():
    id = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
    new, _ = read(prompt_id=id, client_id=7, front=True, number=-2.5, extra_data={"a": 1}).settle()
    assert (new.id, new.client, new.front, new.number, new.extra["a"]) == (id, "7", True, -2.5, 1)


def test_secrets_are_not_kept():
    extra = {"auth_token_comfy_org": "s3cret", "api_key_comfy_org": "s3cret", "extra_pnginfo": {"workflow": {"id": "w"}}}
    new, _ = read(extra_data=extra).settle()
    assert new.extra.keys() == {"extra_pnginfo", "create_time"}
    assert "s3cret" not in encode(new.extra) + encode(new.document)


def test_what_is_no_json_object_is_refused():
    for body in (b"", b"{", b"[]", b"5", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 500 + b"1" + b"}" * 500, b'{"a": ' + b"9" * 5000 + b"}"):
        with pytest.raises(Declined) as raised:
            body_of(body)
        assert raised.value.status == 400
    assert body_of(b" ", empty={}) == {}


def test_numbers_that_are_none_are_null():
    found = body_of(b'{"a": NaN, "b": [Infinity, -Infinity, 1e999, 1e9], "c": "NaN"}')
    assert found == {"a": None, "b": [None, None, None, 1e9], "c": "NaN"}


def test_mistakes_of_form_outside_of_what_runs_are_passed_over():
    document = {**GOOD, "x": {"class_type": "Number", "inputs": [5]}, "$schema": "https://example.org"}
    new, errors = read(prompt=document).settle()
    assert (new.targets, errors) == (("s",), {})
    assert new.document.keys() == {"n", "s", "x"}
    assert all(isinstance(node["inputs"], dict) for node in new.document.values())  # the worker reads the same graph


def test_findings_of_the_classes_join_once():
    submission = read(prompt=doc(p=("Pair", {"a": 13, "b": "x"}), s=("Show", {"what": 1})))
    assert submission.needs_classes
    (known,) = submission.problems
    more = Problem(code="custom", message="brings bad luck", node="p", class_type="Pair", field="a", got=13)
    submission.add([known, more])
    new, errors = submission.settle()
    assert new.targets == ("s",)
    assert [error["type"] for error in errors["p"]["errors"]] == ["invalid_input_type", "custom_validation_failed"]


def test_classes_are_asked_only_about_what_runs():
    document = doc(p=("Pair", {}), n=("Number", {}), s=("Show", {"what": "@n"}))
    assert read(prompt=document).needs_classes
    assert not read(prompt=document, partial_execution_targets=["s"]).needs_classes


def test_a_graph_as_the_editor_saves_it_runs_and_goes_into_the_files():
    graph = {
        "id": "w",
        "nodes": [
            {"id": 1, "type": "Number", "mode": 0, "outputs": [{"name": "value", "type": "INT", "links": [1]}], "widgets_values": [5]},
            {"id": 2, "type": "Show", "mode": 0, "inputs": [{"name": "what", "type": "*", "link": 1}]},
            {"id": 3, "type": "Note", "mode": 0, "widgets_values": ["hello"]},
        ],
        "links": [[1, 1, 0, 2, 0, "INT"]],
        "version": 0.4,
    }
    new, errors = read(prompt=graph).settle()
    assert errors == {}
    assert new.targets == ("2",)
    assert new.document["1"]["inputs"] == {"value": 5}
    assert new.document["2"]["inputs"] == {"what": ["1", 0]}
    assert new.extra["extra_pnginfo"]["workflow"] == graph
    unknown = {**graph, "nodes": [*graph["nodes"], {"id": 4, "type": "Gone", "mode": 0}]}
    assert declined(prompt=unknown)["error"]["extra_info"]["class_type"] == "Gone"
    assert declined(prompt={"nodes": [5], "links": "x"})["error"]["type"] == "invalid_prompt"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5), lambda v: st.lists(v, max_size=3), max_leaves=5
)
inputs = st.dictionaries(
    st.sampled_from(["a", "b", "value", "what", "x"]), values | st.tuples(st.sampled_from("nsa"), st.integers(-1, 2)).map(list)
)
nodes = st.fixed_dictionaries({"class_type": st.sampled_from([*SPECS]) | values, "inputs": inputs | values})
prompts = st.dictionaries(st.sampled_from("nsa"), nodes | values) | values


@given(prompts, st.dictionaries(st.sampled_from(["prompt_id", "client_id", "number", "extra_data", "front"]), values))
def test_any_json_is_accepted_or_declined_with_reasons(prompt, fields):
    body = json.dumps({"prompt": prompt, **fields}).encode()
    answer: Any = None
    try:
        new, errors = Submission.read(body, SPECS, None, definitions).settle()
    except Declined as refused:
        answer = refused.body
    if answer is None:
        assert new.targets
        json.loads(encode(errors))
    else:
        json.loads(encode(answer))
        assert answer["error"]["message"]
