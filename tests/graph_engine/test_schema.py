from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from simple_nodes import ALL

from graph_engine.files import Folders
from graph_engine.registry import Registry
from graph_engine.schema import json_schema
from graph_engine.validate import validate

SPECS = Registry.of(*ALL).specs
VALIDATOR = Draft202012Validator(json_schema(SPECS))


def node(type: str, **inputs: Any) -> dict[str, Any]:
    return {"1": {"class_type": type, "inputs": inputs}}


def test_it_is_a_json_schema_that_json_can_hold() -> None:
    Draft202012Validator.check_schema(json.loads(json.dumps(json_schema(SPECS))))
    Draft202012Validator.check_schema(json_schema({}))


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"$schema": "./schema.json", **node("Blank")},
        node("Blank", width=64, shade=0.5),
        node("Blank", width=64.0, shade=1),
        node("Blank", width=["2", 0]),
        node("Blur", picture=["2", "PICTURE"], mode="hard"),
        node("Blur", picture=["2", 0], extra="ignored"),
        node("Total", values=[1, 2]),
        node("Total", values={"__value__": [1, 2]}),
        node("Total", values=["2", 0]),
        node("Stencilled", picture=["2", 0], stencil=None),
        node("Tell", what={"any": ["thing"]}),
        node("Switch", first=True, one=["2", 0], other=5),
        node("Open", file="whatever.safetensors"),
        node("Old picture"),
        {"1": {"class_type": "Blank", "_meta": {"title": "t", "version": 1, "ver": "x"}}},
    ],
)
def test_what_is_right_passes(document: Any) -> None:
    assert list(VALIDATOR.iter_errors(document)) == []


@pytest.mark.parametrize(
    "document",
    [
        [],
        {"1": 5},
        {"1": {}},
        node("Blurr"),
        node("Blur"),
        {"1": {"class_type": "Blur"}},
        node("Blur", picture=5),
        node("Blur", picture=["2"]),
        node("Blur", picture=["2", 0, 0]),
        node("Blur", picture=["2", -1]),
        node("Blur", picture=["2", 0], mode="other"),
        node("Blur", picture=["2", 0], more=["3", 0]),
        node("Blank", width=8),
        node("Blank", width=20),
        node("Blank", width="64"),
        node("Blank", width=64.5),
        node("Blank", shade=1.5),
        node("Burst", count=10),
        node("Total", values=[]),
        node("Total", values=[-1]),
        node("Total", values=5),
        node("Show", picture=["2", 0], prefix="x" * 21),
        node("Switch", first=1, one=1, other=2),
        node("Open", file=5),
        {"1": {"class_type": "Blank", "_meta": {"version": 0}}},
    ],
)
def test_what_is_wrong_does_not(document: Any) -> None:
    assert list(VALIDATOR.iter_errors(document)) != []


def test_it_describes_what_an_editor_shows() -> None:
    schema = json_schema(SPECS)
    blur = schema["$defs"]["Blur"]
    amount = blur["properties"]["inputs"]["properties"]["amount"]
    assert blur["description"] == "Mixes a picture with grey."
    assert amount["description"] == "between nothing and all"
    assert amount["default"] == 0.1
    assert amount["anyOf"][0] == {"type": "number", "minimum": 0, "maximum": 1}
    assert schema["$defs"]["Old picture"]["deprecated"] is True
    assert schema["$defs"]["~node"]["properties"]["class_type"]["enum"] == list(SPECS)


def test_files_are_offered_but_not_insisted_on(tmp_path: Path) -> None:
    (tmp_path / "models" / "checkpoints").mkdir(parents=True)
    (tmp_path / "models" / "checkpoints" / "a.safetensors").touch()
    file = json_schema(SPECS, Folders(tmp_path))["$defs"]["Open"]["properties"]["inputs"]["properties"]["file"]
    assert file["anyOf"][0] == {"type": "string", "examples": ["tiny", "a.safetensors"]}


VALUES = st.none() | st.booleans() | st.integers(-2, 100) | st.floats(-1, 2) | st.sampled_from(["soft", "tiny", "", ["2", 0], [1], []])
TYPES = ["Blank", "Blur", "Stencilled", "Whole", "Real", "Total", "Word", "Switch", "Open", "Burst", "Old picture"]


@given(
    st.sampled_from(TYPES).flatmap(
        lambda type: st.tuples(st.just(type), st.dictionaries(st.sampled_from([*SPECS[type].by_name, "extra"]), VALUES, max_size=4))
    )
)
def test_what_validation_lets_through_the_schema_lets_through(drawn: tuple[str, dict[str, Any]]) -> None:
    type, inputs = drawn
    document = {**node(type, **inputs), "2": {"class_type": "Blank", "inputs": {}}, "3": {"class_type": "Tell", "inputs": {"what": 1}}}
    if validate(document, SPECS) == []:
        assert list(VALIDATOR.iter_errors(document)) == []
