"""The table of operations as an OpenAPI 3.1 document."""

from __future__ import annotations

from importlib import metadata
from typing import Any

from server.openapi.files import FILES
from server.openapi.nodes import NODES
from server.openapi.operation import Operation, Schema, ref
from server.openapi.runs import RUNS
from server.openapi.schemas import SCHEMAS
from server.openapi.system import SYSTEM

__all__ = ["OPERATIONS", "document"]

OPERATIONS: tuple[Operation, ...] = (*RUNS, *FILES, *NODES, *SYSTEM)

_ABOUT = (
    "Every path exists with and without `/api` in front, except those below `/internal`, which exist as written. JSON bodies are read "
    "whatever the Content-Type says. Events of a run come over the WebSocket `/ws?clientId=…`; see docs/api.md."
)
_DENIED: dict[int, tuple[str, Schema]] = {
    401: ("A token is needed.", ref("Refusal")),
    403: ("The request comes from a foreign page.", ref("Refusal")),
}


def document(base: str = "/", *, token: bool = False) -> dict[str, Any]:
    """The OpenAPI 3.1 document of the API that lies under `base`; with `token` every operation asks for one."""
    paths: dict[str, Any] = {}
    for each in OPERATIONS:
        paths.setdefault(each.path, {})[each.method.lower()] = _guarded(each, token)
    made: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "latentgraph", "version": metadata.version("latentgraph"), "description": _ABOUT},
        "servers": [{"url": base}],
        "paths": paths,
        "components": {"schemas": SCHEMAS},
    }
    if token:
        made["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        made["security"] = [{"token": []}]
    return made


def _guarded(operation: Operation, token: bool) -> dict[str, Any]:
    written = operation.written()
    for code, (meaning, content) in _DENIED.items():
        if code == 403 or token:
            written["responses"].setdefault(str(code), {"description": meaning, "content": content})
    return written
