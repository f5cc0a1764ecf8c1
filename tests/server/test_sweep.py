"""Sweeps: every combination, the fixed changes in each, values read as their input wants them."""

import pytest

from graph_engine import NodeSpec, Workflow, WorkflowError
from graph_engine.spec import InputSpec
from server.sweep import variants

SPECS = {
    "Text": NodeSpec(
        type="Text", inputs=(InputSpec(name="text", types=("STRING",)), InputSpec(name="count", types=("INT",), required=False))
    ),
}
WORKFLOW = Workflow.from_json({"1": {"class_type": "Text", "inputs": {"text": "a"}, "_meta": {"title": "my.prompt"}}})


def made(settings=(), sweeps=()):
    return [(label, changed.nodes["1"].inputs) for label, changed in variants(WORKFLOW, settings, sweeps, SPECS)]


def test_every_combination_once_in_order_with_a_label():
    found = made(sweeps=["1.text=a,b", "1.count=1,2,3"])
    assert [inputs for _, inputs in found] == [{"text": t, "count": n} for t in "ab" for n in (1, 2, 3)]
    assert found[0][0] == "my.prompt.text=a my.prompt.count=1"


def test_without_a_sweep_there_is_one_run_with_the_settings_and_no_label():
    assert made(["1.text=x=y", "1.count=4"]) == [("", {"text": "x=y", "count": 4})]


def test_settings_hold_in_every_combination():
    assert [inputs["count"] for _, inputs in made(["1.count=4"], ["1.text=a,b"])] == [4, 4]


def test_quoted_values_may_hold_commas():
    assert [inputs["text"] for _, inputs in made(sweeps=['1.text="a star, red",a ring'])] == ["a star, red", "a ring"]


@pytest.mark.parametrize("bad", ["1.text", "=3", "", "1.txt=7", "2.text=7"])
def test_an_address_that_leads_nowhere_is_refused(bad):
    for where in ("settings", "sweeps"):
        with pytest.raises(WorkflowError):
            made(**{where: [bad]})


def test_an_empty_sweep_is_refused():
    with pytest.raises(WorkflowError, match="no values"):
        made(sweeps=["1.text="])


def test_the_node_is_found_by_title_with_a_dot_and_the_original_is_untouched():
    assert made(["my.prompt.text=7", "my.prompt.count=7"]) == [("", {"text": "7", "count": 7})]
    assert WORKFLOW.nodes["1"].inputs == {"text": "a"}


def test_a_value_that_does_not_fit_is_left_for_validation():
    assert made(["1.count=many"])[0][1]["count"] == "many"
