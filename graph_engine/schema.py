"""JSON Schema (2020-12) of a workflow with all nodes, so that an editor completes and checks the JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from graph_engine.files import Folders
from graph_engine.sockets import ANY
from graph_engine.spec import InputSpec, NodeSpec

__all__ = ["json_schema"]

_LINK = {
    "description": "a link: [id of a node, position or name of its output]",
    "type": "array",
    "prefixItems": [{"type": "string"}, {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string"}]}],
    "minItems": 2,
    "items": False,
}
_TYPES = {"INT": "integer", "FLOAT": "number", "STRING": "string", "BOOLEAN": "boolean"}


def json_schema(specs: Mapping[str, NodeSpec], folders: Folders | None = None) -> dict[str, Any]:
    """The schema of a document in the API format; with `folders` file inputs list what is there."""
    shapes = {type: _node(spec, folders) for type, spec in specs.items()}
    meta = {"type": "object", "properties": {"title": {"type": "string"}, "version": {"type": "integer", "minimum": 1}}}
    node: dict[str, Any] = {
        "type": "object",
        "required": ["class_type"],
        "properties": {
            "class_type": {"enum": list(specs), "enumDescriptions": [spec.description for spec in specs.values()]},
            "inputs": {"type": "object"},
            "_meta": meta,
        },
    }
    if shapes:
        # one condition for each type, so that an editor reports what is wrong with the node instead of "matches none"
        node["allOf"] = [
            {
                "if": {"properties": {"class_type": {"const": type}}, "required": ["class_type"]},
                "then": {"$ref": f"#/$defs/{_pointer(type)}"},
            }
            for type in shapes
        ]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "latentgraph workflow",
        "type": "object",
        "properties": {"$schema": {"type": "string"}},
        "additionalProperties": {"$ref": "#/$defs/~0node"},
        "$defs": {"~link": _LINK, "~node": node, **shapes},
    }


def _pointer(type: str) -> str:
    """A key as it stands in a reference: JSON Pointer escapes inside a URI fragment (RFC 6901, section 6)."""
    return quote(type.replace("~", "~0").replace("/", "~1"), safe="~")


def _node(spec: NodeSpec, folders: Folders | None) -> dict[str, Any]:
    inputs: dict[str, Any] = {
        "type": "object",
        "properties": {entry.name: _input(entry, folders) for entry in spec.inputs},
        # an extra value is ignored, an extra link is not
        "additionalProperties": {"not": {"$ref": "#/$defs/~0link"}},
    }
    required = [entry.name for entry in spec.inputs if entry.required]
    made: dict[str, Any] = {"description": spec.description, "properties": {"inputs": inputs}}
    if required:
        inputs["required"] = required
        made["required"] = ["inputs"]
    return {**made, "deprecated": True} if spec.deprecated else made


def _input(spec: InputSpec, folders: Folders | None) -> dict[str, Any]:
    ways: list[dict[str, Any]] = [{"$ref": "#/$defs/~0link"}]
    literal = _literals(spec, folders)
    if literal is not None:
        ways = [*_listed(literal, spec), *ways] if spec.list else [literal, *ways]
    if spec.optional:
        ways.append({"type": "null"})
    made: dict[str, Any] = {"anyOf": ways}
    if spec.description:
        made["description"] = spec.description
    if not spec.required:
        made["default"] = spec.default
    return made


def _listed(item: dict[str, Any], spec: InputSpec) -> list[dict[str, Any]]:
    array: dict[str, Any] = {"type": "array", "items": item, **_lengths(spec, "Items")}
    return [array, {"type": "object", "properties": {"__value__": array}, "required": ["__value__"]}]


def _literals(spec: InputSpec, folders: Folders | None) -> dict[str, Any] | None:
    """What a literal of this input looks like; None when it takes links only."""
    if ANY in spec.types:
        return {}
    ways = [way for kind in spec.types if (way := _literal(kind, spec, folders)) is not None]
    return {"anyOf": ways} if len(ways) > 1 else ways[0] if ways else None


def _literal(kind: str, spec: InputSpec, folders: Folders | None) -> dict[str, Any] | None:
    if kind == "COMBO":
        if spec.folder is None:
            return {"enum": list(spec.choices or ())}
        found = list(spec.embedded) if folders is None else list(folders.choices(spec))
        return {"type": "string", "examples": found}
    if kind not in _TYPES:
        return None
    made: dict[str, Any] = {"type": _TYPES[kind]}
    if kind == "STRING" and not spec.list:
        made |= _lengths(spec, "Length")
        if spec.pattern is not None:
            made["pattern"] = spec.pattern
    if kind in ("INT", "FLOAT"):
        if spec.minimum is not None:
            made["exclusiveMinimum" if spec.above else "minimum"] = spec.minimum
        if spec.maximum is not None:
            made["exclusiveMaximum" if spec.below else "maximum"] = spec.maximum
        if spec.multiple_of is not None and isinstance(spec.multiple_of, int):
            made["multipleOf"] = spec.multiple_of  # of a fraction, JSON Schema has no slack for rounding
    return made


def _lengths(spec: InputSpec, what: str) -> dict[str, int]:
    bounds = {f"min{what}": spec.min_length, f"max{what}": spec.max_length}
    return {name: bound for name, bound in bounds.items() if bound is not None}
