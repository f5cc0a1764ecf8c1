"""Every problem that validation can find arrives at the right node and input, in the shape that the editor reads."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from told_nodes import REGISTRY, SPECS, doc

import graph_engine
from graph_engine import Workflow
from graph_engine.files import Folders
from graph_engine.validate import validate
from server.protocol.errors import TYPES, node_errors
from server.protocol.messages import encode

# the editor's own lists of what it shows on an input, and of what it shows on a node
INPUT_LEVEL = {
    "required_input_missing",
    "bad_linked_input",
    "return_type_mismatch",
    "invalid_input_type",
    "value_smaller_than_min",
    "value_bigger_than_max",
    "value_not_in_list",
    "custom_validation_failed",
    "exception_during_inner_validation",
}
NODE_LEVEL = {"exception_during_validation", "dependency_cycle"}
FUSSY = {"sheet": "@p", "picture": "there.png"}


@pytest.fixture
def folders(tmp_path):
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "there.png").write_bytes(b"")
    return Folders(tmp_path)


def errors_of(document: dict[str, Any], folders: Folders | None = None, node: str = "f", *, classes: bool = False) -> list[dict[str, Any]]:
    workflow = Workflow.from_json(document)
    problems = validate(workflow, SPECS, folders, registry=REGISTRY if classes else None)
    made = node_errors(problems, workflow, SPECS, folders, {node: ["out"]})
    json.loads(encode(made))
    assert made[node]["class_type"] == document[node]["class_type"]
    assert made[node]["dependent_outputs"] == ["out"]
    return made[node]["errors"]


def one(folders: Folders | None, **inputs: Any) -> dict[str, Any]:
    document = doc(p=("Paper", {}), f=("Fussy", {**FUSSY, **inputs}))
    (error,) = errors_of(document, folders)
    assert error.keys() == {"type", "message", "details", "extra_info"}
    assert error["message"]
    assert error["details"]
    return error


def test_a_valid_node_has_no_errors(folders):
    document = doc(p=("Paper", {}), f=("Fussy", FUSSY))
    assert validate(Workflow.from_json(document), SPECS, folders, registry=REGISTRY) == []


@pytest.mark.parametrize(
    ("name", "value", "type"),
    [
        ("size", 8, "value_smaller_than_min"),
        ("size", 80, "value_bigger_than_max"),
        ("ratio", 0.0, "value_smaller_than_min"),
        ("ratio", 1, "value_bigger_than_max"),
        ("mode", "medium", "value_not_in_list"),
        ("many", "no choice", "value_not_in_list"),
        ("picture", "gone.png", "value_not_in_list"),
        ("size", "many", "invalid_input_type"),
        ("size", "16", "invalid_input_type"),
        ("size", 16.5, "invalid_input_type"),
        ("size", None, "invalid_input_type"),
        ("size", True, "invalid_input_type"),
        ("ratio", "x", "invalid_input_type"),
        ("on", "yes", "invalid_input_type"),
        ("name", 5, "invalid_input_type"),
        ("sheet", "a sheet", "invalid_input_type"),
        ("numbers", 5, "invalid_input_type"),
        ("numbers", {"__value__": [1, "x"]}, "invalid_input_type"),
        ("sheet", ["p"], "bad_linked_input"),
        ("sheet", ["p", 0, 0], "bad_linked_input"),
        ("sheet", [1, 0], "bad_linked_input"),
        ("size", 20, "custom_validation_failed"),
        ("name", "a", "custom_validation_failed"),
        ("name", "abcdef", "custom_validation_failed"),
        ("name", "ABC", "custom_validation_failed"),
        ("sheet", ["p", 3], "exception_during_inner_validation"),
        ("sheet", ["p", "gone"], "exception_during_inner_validation"),
        ("sheet", ["nobody", 0], "exception_during_validation"),
    ],
)
def test_a_wrong_value_is_shown_on_its_input(folders, name, value, type):
    error = one(folders, **{name: value})
    assert error["type"] == type
    assert error["extra_info"]["input_name"] == name
    given = value["__value__"] if isinstance(value, dict) else value
    assert error["extra_info"]["received_value"] == given


def test_bounds_come_with_the_type_as_the_editor_reads_them(folders):
    kind, options = one(folders, size=8)["extra_info"]["input_config"]
    assert (kind, options["min"], options["max"]) == ("INT", 16, 64)
    kind, options = one(folders, ratio=2.0)["extra_info"]["input_config"]
    assert kind == "FLOAT"
    assert 0 < options["min"] < options["max"] < 1


def test_choices_are_repeated_while_they_are_few(folders):
    error = one(folders, mode="medium")
    assert error["extra_info"]["input_config"][0] == ["soft", "hard"]
    assert "medium" in error["details"]
    assert one(folders, many="no choice")["extra_info"]["input_config"] is None


def test_what_could_not_be_converted_says_why(folders):
    info = one(folders, size="many")["extra_info"]
    assert "'many'" in info["exception_message"]
    assert info["input_config"][0] == "INT"


def test_objections_name_the_input_first(folders):
    assert one(folders, size=20)["details"].startswith("size - 20 is not a multiple of 8")


def test_a_missing_input(folders):
    document = doc(f=("Fussy", {"picture": "there.png"}))
    (error,) = errors_of(document, folders)
    assert (error["type"], error["details"], error["extra_info"]["input_name"]) == ("required_input_missing", "sheet", "sheet")


def test_a_link_of_another_type(folders):
    document = doc(n=("Number", {}), f=("Fussy", {**FUSSY, "sheet": "@n"}))
    (error,) = errors_of(document, folders)
    assert error["type"] == "return_type_mismatch"
    info = error["extra_info"]
    assert (info["input_name"], info["received_type"], info["linked_node"], info["input_config"][0]) == ("sheet", "INT", ["n", 0], "SHEET")
    assert error["details"] == "sheet, received_type(INT) mismatch input_type(SHEET)"


def test_an_extra_link_and_a_misspelt_name(folders):
    document = doc(p=("Paper", {}), f=("Fussy", {**FUSSY, "other": "@p", "rati": 0.5}))
    found = {error["extra_info"]["input_name"]: error for error in errors_of(document, folders)}
    assert {name: error["type"] for name, error in found.items()} == dict.fromkeys(("other", "rati"), "custom_validation_failed")
    assert "ratio" in found["rati"]["details"]


def test_all_members_of_a_circle_say_so():
    document = doc(f=("Add", {"a": "@g"}), g=("Add", {"a": "@h"}), h=("Add", {"a": "@f"}), s=("Show", {"what": "@h"}))
    document["g"]["_meta"] = {"title": "mine"}
    for node in ("f", "g", "h"):
        (error,) = errors_of(document, node=node)
        assert error["type"] == "dependency_cycle"
        assert set(error["extra_info"]["cycle_nodes"]) == {"f", "g", "h"}
        assert re.fullmatch(r"(\w \(Add\) -> ){3}\w \(Add\)", error["details"])


def test_a_node_linked_to_itself():
    (error,) = errors_of(doc(f=("Add", {"a": "@f"}), s=("Show", {"what": "@f"})))
    assert (error["type"], error["details"], error["extra_info"]["cycle_nodes"]) == ("dependency_cycle", "f (Add) -> f (Add)", ["f"])


def test_what_only_the_class_knows():
    (error,) = errors_of(doc(f=("Pair", {"a": 13})), classes=True)
    assert (error["type"], error["details"]) == ("custom_validation_failed", "a - brings bad luck")
    assert (error["extra_info"]["input_name"], error["extra_info"]["received_value"]) == ("a", 13)
    (error,) = errors_of(doc(f=("Pair", {"a": 7, "b": 7})), classes=True)
    assert (error["type"], error["details"]) == ("exception_during_validation", "a and b are too lucky together")
    (error,) = errors_of(doc(f=("Pair", {"b": 99})), classes=True)
    assert error["type"] == "exception_during_validation"
    assert "the check itself breaks" in error["details"]


def test_several_problems_of_one_node_come_together(folders):
    document = doc(f=("Fussy", {"size": 8, "ratio": "x", "mode": "medium", "name": "A", "picture": "gone.png"}))
    found = {(error["extra_info"]["input_name"], error["type"]) for error in errors_of(document, folders)}
    assert found == {
        ("size", "value_smaller_than_min"),
        ("ratio", "invalid_input_type"),
        ("mode", "value_not_in_list"),
        ("name", "custom_validation_failed"),
        ("picture", "value_not_in_list"),
        ("sheet", "required_input_missing"),
    }


def test_mistakes_of_form():
    document = doc(f=("Show", {"what": 1}))
    document["f"]["inputs"] = [1]
    document["f"]["_meta"] = {"version": "new"}
    found = errors_of(document)
    assert {error["type"] for error in found} == {"exception_during_validation", "required_input_missing"}
    assert {error["extra_info"].get("input_name") for error in found} == {"_meta.version", "inputs", "what"}


def test_every_code_of_the_engine_has_a_type_that_the_editor_knows():
    assert set(TYPES.values()) <= INPUT_LEVEL | NODE_LEVEL
    source = "".join(path.read_text() for path in Path(graph_engine.__file__).parent.glob("*.py"))
    codes = set(re.findall(r'code="(\w+)"|\.problem\(\s*"(\w+)"|return \(?\s*"([a-z]+_[a-z_]+)",|code, hint = "(\w+)"', source))
    found = {code for groups in codes for code in groups if code}
    assert found >= {"cycle", "custom", "dangling_link", "value_not_multiple", "wrong_type", "bad_link", "socket_needs_link"}
    elsewhere = {  # about the whole prompt, or only said where documents are read, built and looked up
        *("unknown_node", "not_a_node", "no_outputs", "no_such_node", "bad_document", "bad_json", "editor_format", "duplicate_name"),
        *("deprecated", "bad_address", "no_workflow", "no_file", "ambiguous_node"),
    }
    assert found - elsewhere <= TYPES.keys()
