from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from editor_graphs import DEFINITIONS, RECORDED
from hypothesis import given, settings
from hypothesis import strategies as st

from graph_engine import WorkflowError
from graph_engine.editor.convert import to_api
from graph_engine.editor.layout import to_editor

# nodes whose prompts hold all their widgets, so that nothing is added on the way back
CHAIN: dict[str, Any] = {
    "1": {"class_type": "LabSource", "inputs": {"text": "t", "seed": 2**63 + 1, "mode": "c"}, "_meta": {"title": "Start"}},
    "2": {"class_type": "LabFilter", "inputs": {"image": ["1", 0], "amount": 0.25, "on": False, "method": "x"}, "_meta": {"title": "F"}},
    "3": {"class_type": "LabSave", "inputs": {"images": ["2", 0], "filename_prefix": ["8", 0]}, "_meta": {"title": "Save"}},
    "8": {"class_type": "LabText", "inputs": {"value": "v"}, "_meta": {"title": "Text", "version": 3}},
}


def known(prompt: dict[str, Any]) -> bool:
    return all("class_type" in entry and "#" not in "".join(entry["inputs"]) for entry in prompt.values())


FIRM = sorted(name for name, prompt in RECORDED["prompts"].items() if prompt and known(prompt))


def settled(document: dict[str, Any]) -> dict[str, Any]:
    """Through the canvas and back."""
    return to_api(to_editor(document, DEFINITIONS), DEFINITIONS, exact=False)


def test_a_document_comes_back_as_it_was() -> None:
    assert settled(CHAIN) == CHAIN


@pytest.mark.parametrize("name", [name for name in FIRM if ":" not in "".join(RECORDED["prompts"][name])])
def test_what_the_editor_submitted_comes_back(name: str) -> None:
    prompt = RECORDED["prompts"][name]
    try:
        back = settled(prompt)
    except WorkflowError as error:
        refused = str(error)
    else:
        refused = ""
    if refused:  # the editor sends on what it does not know, unchecked
        assert re.search("no input|is no link|no output|a comment", refused)
        return
    assert settled(back) == back
    for id, entry in prompt.items():
        for input, value in entry["inputs"].items():
            assert input in back[id]["inputs"]
            if value is not None:
                assert back[id]["inputs"][input] == value


def test_the_canvas_is_ordered_from_left_to_right_and_nothing_overlaps() -> None:
    made = to_editor(CHAIN, DEFINITIONS)
    place = {node["id"]: (*node["pos"], *node["size"]) for node in made["nodes"]}
    for _id, origin, _slot, target, _input, _type in made["links"]:
        assert place[origin][0] + place[origin][2] < place[target][0]
    for a in place:
        for b in place:
            (ax, ay, aw, ah), (bx, by, bw, bh) = place[a], place[b]
            assert a == b or ax + aw < bx or bx + bw < ax or ay + ah < by or by + bh < ay


def test_both_ends_of_a_link_know_it() -> None:
    made = to_editor(CHAIN, DEFINITIONS)
    nodes = {node["id"]: node for node in made["nodes"]}
    for id, origin, slot, target, input, type in made["links"]:
        assert id in nodes[origin]["outputs"][slot]["links"]
        assert nodes[target]["inputs"][input]["link"] == id
        assert nodes[origin]["outputs"][slot]["type"] == type
    assert made["last_link_id"] == len(made["links"])
    assert made["last_node_id"] == 8


def test_an_output_may_be_given_by_name() -> None:
    document = {**CHAIN, "2": {**CHAIN["2"], "inputs": {**CHAIN["2"]["inputs"], "image": ["1", "image"]}}}
    assert settled(document) == settled(CHAIN)


def test_a_circle_still_has_places() -> None:
    loop = {id: {"class_type": "LabFilter", "inputs": {"image": [other, 0]}} for id, other in (("1", "2"), ("2", "1"))}
    first, second = (node["pos"] for node in to_editor(loop, DEFINITIONS)["nodes"])
    assert first != second


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"class_type": "Nope", "inputs": {}}, "no node type"),
        ({"class_type": "LabSave", "inputs": {"nope": 1}}, "no input"),
        ({"class_type": "LabSave", "inputs": {"images": 1}}, "is no link"),
        ({"class_type": "LabSave", "inputs": {"images": ["77", 0]}}, "no node '77'"),
        ({"class_type": "LabSave", "inputs": {"images": ["2", 9]}}, "no output"),
    ],
)
def test_what_the_format_cannot_hold_is_refused(entry: dict[str, Any], said: str) -> None:
    with pytest.raises(WorkflowError) as caught:
        to_editor({**CHAIN, "3": entry}, DEFINITIONS)
    assert said in caught.value.problems[0].message
    assert caught.value.problems[0].node == "3"


TEXT = st.text(st.characters(codec="utf-8"), max_size=8)


@settings(max_examples=40, deadline=None)
@given(TEXT, st.integers(0, 2**64 - 1), st.floats(0, 1), st.booleans(), st.permutations(list(CHAIN)))
def test_values_and_order_come_back(text: str, seed: int, amount: float, on: bool, order: list[str]) -> None:
    document: dict[str, Any] = json.loads(json.dumps({id: CHAIN[id] for id in order}))
    document["1"]["inputs"] |= {"text": text, "seed": seed}
    document["2"]["inputs"] |= {"amount": amount, "on": on}
    back = settled(document)
    assert back == document


WORKFLOWS = sorted(path for path in (Path(__file__).parents[3] / "workflows").glob("*.json") if path.name != "index.json")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_workflow_that_ships_comes_back(path: Path) -> None:
    from graph_engine import Catalogue, Folders
    from graph_engine.editor.definitions import definitions

    document = json.loads(path.read_text(encoding="utf-8"))
    document.pop("$schema", None)
    specs = Catalogue.load().specs
    known = definitions(specs, Folders(path.parent))
    back = to_api(to_editor(document, known), known, exact=False)
    assert back.keys() == document.keys()
    for id, entry in document.items():
        assert back[id]["class_type"] == entry["class_type"]
        assert {**back[id]["_meta"], **entry.get("_meta", {})} == back[id]["_meta"]
        inputs = back[id]["inputs"]
        assert {name: inputs[name] for name in entry["inputs"]} == entry["inputs"]
        spec = specs[entry["class_type"]].by_name
        for name in inputs.keys() - entry["inputs"].keys():  # the canvas shows every widget, with its default
            assert spec[name].canonical(inputs[name]) == spec[name].canonical(spec[name].default)
