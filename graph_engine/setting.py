"""Inputs set from a command line: `node.input=value`, with the value read as the type that the input takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from graph_engine.document import read_input
from graph_engine.errors import WorkflowError
from graph_engine.spec import InputSpec, NodeSpec, Problem
from graph_engine.workflow import Workflow

__all__ = ["apply_setting", "read_setting", "read_value", "value_of"]


def apply_setting(workflow: Workflow, setting: str, specs: Mapping[str, NodeSpec]) -> Workflow:
    """The workflow with one input replaced, as `node.input=value` says. Raises WorkflowError as `read_setting` does."""
    id, name, text = read_setting(workflow, setting, specs)
    return workflow.replace(id, name, value_of(workflow, id, name, text, specs))


def read_setting(workflow: Workflow, setting: str, specs: Mapping[str, NodeSpec]) -> tuple[str, str, str]:
    """(node id, input, text of the value) of `node.input=value`; the node by id, title or type.

    Raises WorkflowError for one without `=`, a node that is not there, or an input that its type does not have.
    """
    at = [position for position, letter in enumerate(setting) if letter == "="]
    if not at:
        message = f"{setting!r} is not `node.input=value`"
        raise WorkflowError([Problem(code="bad_address", message=message, got=setting)])
    refused: WorkflowError | None = None
    for position in at:  # a title may hold "=", so the first reading that names a node counts
        try:
            return *workflow.locate(setting[:position], specs), setting[position + 1 :]
        except WorkflowError as error:
            refused = refused or error
    assert refused is not None
    raise refused


def value_of(workflow: Workflow, id: str, name: str, text: str, specs: Mapping[str, NodeSpec]) -> Any:
    """The value that `text` means for an input of a node of this workflow."""
    spec = specs.get(workflow.nodes[id].class_type)
    return read_value(text, None if spec is None else spec.by_name.get(name))


def read_value(text: str, spec: InputSpec | None) -> Any:
    """The literal or link that `text` means for an input: texts as they are, the rest as JSON; what cannot be read
    stays a text.

    A text that does not fit is left for validation to refuse with its reasons.
    """
    if spec is not None:
        if text in ("null", "") and spec.optional and (text == "null" or "STRING" not in spec.types):
            return None
        for choice in spec.choices or ():
            if text == (json.dumps(choice) if isinstance(choice, bool) else str(choice)):
                return choice
        if not spec.list and {"STRING", "COMBO"} & set(spec.types) and not {"INT", "FLOAT", "BOOLEAN"} & set(spec.types):
            return text
        if "BOOLEAN" in spec.types and text.strip().lower() in ("true", "false"):
            return text.strip().lower() == "true"
    try:
        return read_input(json.loads(text))
    except (ValueError, RecursionError):
        return text
