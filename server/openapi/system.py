"""Operations that tell how the server is doing."""

from __future__ import annotations

from server.openapi.operation import Operation, Schema, empty, json_body, mapping, ref, text

__all__ = ["SYSTEM"]

_text: Schema = {"type": "string"}

SYSTEM = (
    Operation("GET", "/system_stats", "system", "Versions, memory and devices", {200: ("The facts.", ref("System"))}),
    Operation("GET", "/memory", "system", "Who holds how much memory, worker by worker", {200: ("The holders.", ref("Memory"))}),
    Operation("GET", "/metrics", "system", "Counters for Prometheus", {200: ("Text format 0.0.4.", text())}),
    Operation("GET", "/health", "system", "Whether the server answers and its workers live", {200: ("It does.", json_body(mapping()))}),
    Operation("GET", "/openapi.json", "system", "This document", {200: ("OpenAPI 3.1.", json_body(mapping()))}),
    Operation("GET", "/internal/logs", "system", "The last log lines as one text", {200: ("The lines.", json_body(_text))}),
    Operation("GET", "/internal/logs/raw", "system", "The last log lines with their times", {200: ("The lines.", json_body(mapping()))}),
    Operation(
        "PATCH",
        "/internal/logs/subscribe",
        "system",
        "Send log lines to a WebSocket client, or no longer",
        {200: ("Done.", empty), 400: ("The request is not as described.", ref("Refusal")), 413: ("The body is too large.", ref("Refusal"))},
        body=json_body(
            {"type": "object", "properties": {"enabled": {"type": "boolean"}, "clientId": _text}, "required": ["enabled", "clientId"]}
        ),
    ),
)
