from __future__ import annotations

from typing import Any

import pytest

from graph_engine.migrate import is_old, migrate
from graph_engine.registry import Registry
from graph_engine.validate import validate
from graph_engine.workflow import Workflow


def turn(version: int | None, **inputs: Any) -> Workflow:
    meta = {} if version is None else {"_meta": {"version": version, "title": "turned"}}
    return Workflow.from_json(
        {
            "1": {"class_type": "Blank", "inputs": {}},
            "2": {"class_type": "Turn", "inputs": {"picture": ["1", 0], **inputs}, **meta},
            "3": {"class_type": "Show", "inputs": {"picture": ["2", 0]}},
        }
    )


@pytest.mark.parametrize(
    ("version", "inputs", "degrees"),
    [(1, {"quarters": 2}, 180.0), (2, {"pi": 0.5}, 90.0), (3, {"degrees": 7.0}, 7.0), (None, {"degrees": 7.0}, 7.0)],
)
def test_older_inputs_are_raised(registry: Registry, version: int | None, inputs: dict[str, Any], degrees: float) -> None:
    workflow = turn(version, **inputs)
    before = workflow.to_json()
    raised, problems = migrate(workflow, registry)
    assert problems == []
    assert raised.nodes["2"].inputs["degrees"] == degrees
    assert raised.nodes["2"].version == (None if version is None else 3)
    assert raised.nodes["2"].inputs["picture"] == workflow.nodes["2"].inputs["picture"]
    assert workflow.to_json() == before
    assert validate(workflow, registry.specs, registry=registry) == []


def test_what_cannot_be_raised_is_a_problem(registry: Registry) -> None:
    workflow = turn(1, corners=2)
    raised, (problem,) = migrate(workflow, registry)
    assert raised == workflow
    assert (problem.code, problem.node, problem.title, problem.got, problem.wanted) == ("bad_version", "2", "turned", 1, 3)
    assert "KeyError: 'quarters'" in problem.message
    assert [found.code for found in validate(workflow, registry.specs, registry=registry)] == ["bad_version"]


def test_without_the_class_old_inputs_are_left_alone(registry: Registry) -> None:
    workflow = turn(1, quarters=2)
    assert is_old(workflow.nodes["2"], registry.specs["Turn"])
    assert validate(workflow, registry.specs) == []
    dangling = workflow.set("2.picture", turn(1).nodes["2"].inputs["picture"].__class__("gone"))
    assert [problem.code for problem in validate(dangling, registry.specs)] == ["dangling_link"]
