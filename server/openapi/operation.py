"""One row of the table: an operation of the HTTP API, and short words to write it down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Operation", "Parameter", "Schema", "array", "binary", "empty", "integer", "json_body", "mapping", "ref", "text"]

Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A part of the path or of the query."""

    name: str
    meaning: str
    schema: Schema
    required: bool = False

    def written(self, place: str) -> Schema:
        return {
            "name": self.name,
            "in": place,
            "description": self.meaning,
            "required": self.required or place == "path",
            "schema": self.schema,
        }


@dataclass(frozen=True, slots=True)
class Operation:
    """What one method of one path takes and answers. `answers` maps a status to what it means and its content."""

    method: str
    path: str
    tag: str
    summary: str
    answers: Mapping[int, tuple[str, Schema]]
    query: tuple[Parameter, ...] = ()
    within: tuple[Parameter, ...] = ()  # the parts of the path
    body: Schema | None = None
    body_required: bool = True
    description: str = ""

    def written(self) -> Schema:
        """The OpenAPI operation object."""
        made: Schema = {
            "tags": [self.tag],
            "operationId": _name(self.method, self.path),
            "summary": self.summary,
            "responses": {
                str(code): {"description": meaning, **({"content": content} if content else {})}
                for code, (meaning, content) in sorted(self.answers.items())
            },
        }
        if self.description:
            made["description"] = self.description
        parameters = [each.written("path") for each in self.within] + [each.written("query") for each in self.query]
        if parameters:
            made["parameters"] = parameters
        if self.body is not None:
            made["requestBody"] = {"required": self.body_required, "content": self.body}
        return made


def json_body(schema: Schema) -> Schema:
    """JSON content; the server reads it whatever the Content-Type says."""
    return {"application/json": {"schema": schema}}


def ref(name: str) -> Schema:
    """JSON content by the name of its schema."""
    return json_body({"$ref": f"#/components/schemas/{name}"})


def binary(*kinds: str) -> Schema:
    """Bytes of one of these media types, any when none is named."""
    return {kind: {} for kind in kinds or ("*/*",)}


def text(kind: str = "text/plain") -> Schema:
    return {kind: {"schema": {"type": "string"}}}


def array(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def mapping(values: Schema | None = None) -> Schema:
    return {"type": "object", "additionalProperties": True if values is None else values}


def integer(**bounds: int) -> Schema:
    return {"type": "integer", **bounds}


empty: Schema = {}


def _name(method: str, path: str) -> str:
    parts = [part.strip("{}").replace(".", "_").replace("-", "_") for part in path.split("/") if part]
    return "_".join((method.lower(), *parts)) if parts else f"{method.lower()}_page"
