"""What clients send in place of numbers, texts and truths."""

from __future__ import annotations

import pytest

from graph_engine.spec import InputSpec, NodeSpec
from server.protocol.literals import meant

SPECS = {
    "T": NodeSpec(
        type="T", inputs=tuple(InputSpec(name=kind.lower(), types=(kind,)) for kind in ("INT", "FLOAT", "STRING", "BOOLEAN", "LATENT"))
    )
}


def turned(name, value):
    prompt = {"1": {"class_type": "T", "inputs": {name: value, "other": "1"}}}
    before = repr(prompt)
    found = meant(prompt, SPECS)["1"]["inputs"]
    assert repr(prompt) == before
    assert found["other"] == "1"
    return found[name]


@pytest.mark.parametrize(
    ("name", "given", "wanted"),
    [
        ("int", "20", 20), ("int", " -3 ", -3), ("int", 20, 20), ("float", "2.5", 2.5), ("float", "3", 3.0), ("string", 7, "7"),
        ("string", 0.5, "0.5"), ("string", True, "True"), ("boolean", "true", True), ("boolean", "False", False), ("boolean", 1, True),
        ("boolean", 0, False),
    ],
)  # fmt: skip
def test_what_has_a_meaning_is_turned_into_it(name, given, wanted):
    value = turned(name, given)
    assert value == wanted
    assert type(value) is type(wanted)


@pytest.mark.parametrize(
    ("name", "given"),
    [("int", "20.5"), ("int", "many"), ("int", 20.7), ("int", "1_000"), ("int", True), ("float", "x"), ("boolean", "maybe"), ("boolean", 2),
     ("int", ["2", 0]), ("string", ["2", 0]), ("string", None), ("latent", "1")],
)  # fmt: skip
def test_what_has_none_stays_for_validation(name, given):
    assert turned(name, given) is given


@pytest.mark.parametrize(
    "prompt",
    [
        {"1": None},
        {"1": {"class_type": []}},
        {"1": {"class_type": "T", "inputs": 3}},
        {"1": {"class_type": "U", "inputs": {"int": "3"}}},
        {},
    ],
)
def test_what_is_no_node_of_ours_is_let_be(prompt):
    assert meant(prompt, SPECS) is prompt
