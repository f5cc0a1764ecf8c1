"""What is wrong with a workflow, in the shape that the editor puts on nodes and inputs: `{"error", "node_errors"}`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from graph_engine import Folders, NodeSpec, Problem, Workflow
from graph_engine.editor.definitions import definition
from graph_engine.entry import Link

__all__ = ["MISSING", "TYPES", "members", "missing_nodes", "node_errors", "refusal"]

MISSING = frozenset({"unknown_node", "not_a_node"})
_NODE = "exception_during_validation"  # shown on the node, with its details
_INPUT = "custom_validation_failed"  # shown on an input, with its details
TYPES = {  # of ours that are about a node
    "required_input_missing": "required_input_missing",
    "value_smaller_than_min": "value_smaller_than_min",
    "value_bigger_than_max": "value_bigger_than_max",
    "value_not_in_list": "value_not_in_list",
    "wrong_type": "invalid_input_type",
    "socket_needs_link": "invalid_input_type",
    "bad_link": "bad_linked_input",
    "socket_mismatch": "return_type_mismatch",
    "unknown_output": "exception_during_inner_validation",
    "value_not_multiple": _INPUT,
    "value_not_matching": _INPUT,
    "value_too_short": _INPUT,
    "value_too_long": _INPUT,
    "unknown_input": _INPUT,
    "custom": _INPUT,
    "dangling_link": _NODE,
    "check_failed": _NODE,
    "bad_version": _NODE,
    "bad_inputs": _NODE,
    "cycle": "dependency_cycle",
}
_LISTED = 20  # choices that an answer repeats


def refusal(
    type: str,
    message: str,
    details: str = "",
    extra: Mapping[str, Any] | None = None,
    nodes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The body of an answer that refuses a prompt."""
    error = {"type": type, "message": message, "details": details, "extra_info": dict(extra or {})}
    return {"error": error, "node_errors": dict(nodes or {})}


def missing_nodes(problems: Sequence[Problem]) -> dict[str, Any]:
    """The refusal of a workflow with nodes of unknown types; the editor looks for them in its graph by itself."""
    first = problems[0]
    where = [{"node_id": each.node, "class_type": each.class_type, "node_title": each.title or each.class_type} for each in problems]
    details = "; ".join(map(str, problems[:_LISTED]))
    return refusal("missing_node_type", first.message, details, {**where[0], "missing": where})


def members(problem: Problem) -> list[str]:
    """The nodes that a problem stands on: all of a circle."""
    if problem.code == "cycle" and isinstance(problem.got, list):
        return list(dict.fromkeys(map(str, problem.got)))
    return [] if problem.node is None else [problem.node]


def node_errors(
    problems: Iterable[Problem],
    workflow: Workflow,
    specs: Mapping[str, NodeSpec],
    folders: Folders | None,
    outputs: Mapping[str, Sequence[str]],
) -> dict[str, dict[str, Any]]:
    """The problems by node, in the order of the document. `outputs` gives for every node those outputs that depend on it."""
    found: dict[str, list[dict[str, Any]]] = {}
    configured = _Configured(specs, folders)
    for problem in problems:
        for node in members(problem):
            found.setdefault(node, []).append(_error(problem, workflow, configured))
    return {
        node: {
            "errors": found[node],
            "dependent_outputs": list(outputs.get(node, ())),
            "class_type": entry.class_type,
        }
        for node, entry in workflow.nodes.items()
        if node in found
    }


class _Configured:
    """Inputs as the editor knows them: `[type, options]`."""

    def __init__(self, specs: Mapping[str, NodeSpec], folders: Folders | None) -> None:
        self._specs, self._choices = specs, (lambda entry: ()) if folders is None else folders.choices
        self._made: dict[str, dict[str, Any]] = {}

    def __call__(self, class_type: str | None, name: str | None) -> list[Any] | None:
        if class_type is None or name is None or (spec := self._specs.get(class_type)) is None:
            return None
        if class_type not in self._made:
            sections = definition(spec, self._choices)["input"]
            self._made[class_type] = {**sections["required"], **sections["optional"]}
        found = self._made[class_type].get(name)
        if not isinstance(found, list) or (isinstance(found[0], list) and len(found[0]) > _LISTED):
            return None
        return found


def _error(problem: Problem, workflow: Workflow, configured: _Configured) -> dict[str, Any]:
    type = TYPES.get(problem.code, _NODE)
    name = problem.field
    if type == _INPUT and name is None:
        type = _NODE  # an objection of the node to its inputs together
    message = problem.message + (f" - {problem.hint}" if problem.hint else "")
    extra: dict[str, Any] = {}
    if name is not None:
        extra = {"input_name": name, "input_config": configured(problem.class_type, name), "received_value": problem.got}
    details = name or message
    if type == "value_not_in_list":
        details = f"{name}: {message}"
    elif type == "invalid_input_type":
        details = f"{name}, {problem.got!r}, {message}"
        extra["exception_message"] = message
    elif type == "return_type_mismatch":
        details = f"{name}, received_type({problem.got}) mismatch input_type({problem.wanted})"
        extra |= {"received_type": problem.got, "received_value": _given(workflow, problem), "linked_node": _given(workflow, problem)}
    elif type == _INPUT:
        details = f"{name} - {message}"
    elif type == "dependency_cycle":
        details = _path(problem, workflow)
        extra = {"cycle_nodes": members(problem)}
    elif type in (_NODE, "exception_during_inner_validation"):
        details = message if name is None else f"{name}: {message}"
        extra |= {"exception_type": problem.code, "exception_message": message, "traceback": [], "linked_node": _given(workflow, problem)}
    return {"type": type, "message": message, "details": details, "extra_info": extra}


def _given(workflow: Workflow, problem: Problem) -> list[Any] | None:
    """The link that stands in the input, if one does."""
    entry = workflow.nodes.get(problem.node or "")
    value = None if entry is None or problem.field is None else entry.inputs.get(problem.field)
    return value.to_json() if isinstance(value, Link) else None


def _path(problem: Problem, workflow: Workflow) -> str:
    nodes = workflow.nodes
    return " -> ".join(f"{id} ({nodes[id].class_type})" if id in nodes else id for id in map(str, problem.got))
