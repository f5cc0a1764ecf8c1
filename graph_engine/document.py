"""From JSON to the nodes of a workflow, noting every mistake of form instead of stopping at the first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from graph_engine.entry import Link, NodeEntry
from graph_engine.errors import WorkflowError
from graph_engine.spec import Problem
from graph_engine.suggest import show

__all__ = ["read_document", "read_input", "read_json"]

_FORM = 'a workflow is {"id": {"class_type": "...", "inputs": {...}}, ...}'


def read_document(document: object) -> tuple[dict[str, NodeEntry], list[Problem]]:
    """The nodes of an API-format document, given as text, bytes or parsed JSON, and the mistakes of form in it.

    Raises WorkflowError when it is not JSON, not an object, or in the editor's own format.
    """
    document, faults = read_json(document)
    if not isinstance(document, Mapping):
        raise WorkflowError([Problem(code="bad_document", message=f"{show(document)} is not a workflow", got=_plain(document), hint=_FORM)])
    if isinstance(document.get("nodes"), (list, tuple)):
        message = "this is the editor's own format, which is read only where the node types are known"
        hint = "give their declarations, or export it in the API format from the editor (Workflow > Export (API))"
        raise WorkflowError([Problem(code="editor_format", message=message, hint=hint)])
    nodes: dict[str, NodeEntry] = {}
    for id, value in document.items():
        if id == "$schema" and isinstance(value, str):  # how an editor finds the JSON Schema of the file
            continue
        if not isinstance(id, str):
            id = str(id)
        nodes[id] = _entry(id, value, faults)
    return nodes, faults


def read_json(document: object) -> tuple[object, list[Problem]]:
    """Text or bytes as parsed JSON, with the names it writes twice; what is parsed already is handed back.

    Raises WorkflowError when it is not JSON.
    """
    faults: list[Problem] = []
    return (_parse(document, faults) if isinstance(document, (str, bytes, bytearray)) else document), faults


def read_input(value: Any) -> Any:
    """A link for `[id, output]`, the content for `{"__value__": content}`, else the literal itself."""
    if isinstance(value, (list, tuple)):
        if len(value) == 2 and isinstance(value[0], str):
            output = value[1]
            if isinstance(output, str) or (isinstance(output, int) and not isinstance(output, bool)):
                return Link(value[0], output)
            if isinstance(output, float) and output.is_integer():
                return Link(value[0], int(output))
        return list(value)
    if isinstance(value, dict) and "__value__" in value and value.keys() <= {"__value__", "__type__"}:
        return value["__value__"]
    return value


def _entry(id: str, value: Any, faults: list[Problem]) -> NodeEntry:
    if not isinstance(value, Mapping):
        faults.append(Problem(code="not_a_node", message=f"{show(value)} is not a node", node=id, got=_plain(value), hint=_FORM))
        return NodeEntry("")
    meta = value.get("_meta")
    meta = {str(key): part for key, part in meta.items()} if isinstance(meta, Mapping) else {}
    title = meta.pop("title") if isinstance(meta.get("title"), str) else None
    class_type = value.get("class_type", "")
    if not isinstance(class_type, str):
        message = f"class_type is {show(class_type)}, which is not a text"
        faults.append(Problem(code="unknown_node", message=message, node=id, title=title, field="class_type", got=_plain(class_type)))
        class_type = ""
    class_type = class_type.strip()  # old graphs hold "ConditioningAverage "
    where: dict[str, Any] = {"node": id, "title": title, "class_type": class_type or None}
    version = meta.pop("version", None)
    if version is not None and (not isinstance(version, int) or isinstance(version, bool) or version < 1):
        message = f"version {show(version)} is not a whole number from 1 up"
        faults.append(Problem(code="bad_version", message=message, field="_meta.version", got=_plain(version), **where))
        version = None
    inputs = value.get("inputs", {})
    if not isinstance(inputs, Mapping):
        message = f"inputs is {show(inputs)}, not an object of names and values"
        faults.append(Problem(code="bad_inputs", message=message, field="inputs", got=_plain(inputs), **where))
        inputs = {}
    return NodeEntry(class_type, {str(name): read_input(part) for name, part in inputs.items()}, title, version, meta)


def _parse(text: str | bytes | bytearray, faults: list[Problem]) -> object:
    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(found)
        if len(made) < len(found):
            names = [name for name, _ in found]
            for name in sorted({name for name in names if names.count(name) > 1}):
                message = f"{show(name)} is written more than once in one object"
                faults.append(Problem(code="duplicate_name", message=message, got=name, hint="give each node its own id"))
        return made

    try:
        if isinstance(text, str):
            text = text.removeprefix("\ufeff")
        # a graph saved by a browser may hold NaN and Infinity, which the editor itself reads as null
        return json.loads(text, parse_constant=lambda _: None, object_pairs_hook=pairs)
    except RecursionError:
        message = "the JSON is nested too deeply"
    except UnicodeDecodeError:
        message = "this is neither JSON text nor a picture"
    except json.JSONDecodeError as error:
        message = f"this is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
    except ValueError as error:  # a number of more digits than Python reads
        message = f"this JSON cannot be read: {error}"
    raise WorkflowError([Problem(code="bad_json", message=message, hint=_FORM)])


def _plain(value: Any) -> Any:
    """The value if a problem can carry it as JSON, else its description."""
    return value if value is None or isinstance(value, (bool, int, float, str)) else show(value)
