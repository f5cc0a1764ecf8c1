"""Sweeps: every combination, the fixed changes in each, values read as their input wants them."""

import pytest

from graph_engine import Workflow, WorkflowError
from graph_engine.spec import InputSpec, NodeSpec
from server.sweep import apply, combinations, read_value

SPECS = {
    "Text": NodeSpec(type="Text", inputs=(InputSpec(name="text", types=("STRING",)), InputSpec(name="count", types=("INT",), required=False))),
}
WORKFLOW = Workflow.from_json({"1": {"class_type": "Text", "inputs": {"text": "a"}, "_meta": {"title": "my.prompt"}}})


def test_every_combination_once_in_order():
    found = [c.swept for c in combinations([], ["1.text=a,b", "1.count=1,2,3"])]
    assert found == [(("1.text", t), ("1.count", n)) for t in "ab" for n in "123"]


def test_without_a_sweep_there_is_one_run_with_the_fixed_changes():
    (only,) = combinations(["1.text=x=y", "1.count=4"], [])
    assert only.changes == (("1.text", "x=y"), ("1.count", "4"))
    assert only.swept == ()


def test_quoted_values_may_hold_commas():
    found = [c.swept[0][1] for c in combinations([], ['1.text="a star, red",a ring'])]
    assert found == ["a star, red", "a ring"]


@pytest.mark.parametrize("bad", ["1.text", "=3", ""])
def test_text_without_an_address_is_refused(bad):
    with pytest.raises(ValueError, match=r"node\.input=value"):
        list(combinations([bad], []))


def test_an_empty_sweep_is_refused():
    with pytest.raises(ValueError, match="no values"):
        list(combinations([], ["1.text="]))


def test_the_node_is_found_by_title_with_a_dot_and_the_original_is_untouched():
    (only,) = combinations(["my.prompt.text=7", "my.prompt.count=7"], [])
    changed = apply(WORKFLOW, only, SPECS)
    assert changed.nodes["1"].inputs == {"text": "7", "count": 7}
    assert WORKFLOW.nodes["1"].inputs == {"text": "a"}


def test_an_address_that_leads_nowhere_names_the_nearest():
    (only,) = combinations(["1.txt=7"], [])
    with pytest.raises(WorkflowError, match="text"):
        apply(WORKFLOW, only, SPECS)


@pytest.mark.parametrize(
    ("text", "types", "value"),
    [("7", ("STRING",), "7"), ("7", ("INT",), 7), ("true", ("BOOLEAN",), True), ("x", ("INT",), "x"), ("[1, 2]", ("INT",), [1, 2])],
)
def test_a_value_is_read_as_its_input_wants_it(text, types, value):
    assert read_value(text, InputSpec(name="i", types=types)) == value


def test_a_choice_that_looks_like_json_stays_the_choice():
    assert read_value("90", InputSpec(name="i", types=("COMBO",), choices=("90", "180"))) == "90"
