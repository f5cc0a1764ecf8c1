"""The JSON shapes that several operations share."""

from __future__ import annotations

from server.openapi.operation import Schema, array, integer, mapping

__all__ = ["SCHEMAS"]


def record(required: dict[str, Schema], optional: dict[str, Schema] | None = None, *, closed: bool = False) -> Schema:
    made: Schema = {"type": "object", "properties": {**required, **(optional or {})}, "required": [*required]}
    if closed:
        made["additionalProperties"] = False
    return made


def named(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def maybe(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


text: Schema = {"type": "string"}
flag: Schema = {"type": "boolean"}
number: Schema = {"type": "number"}
anything = mapping()

_ERROR = record({"type": text, "message": text, "details": text, "extra_info": anything})
_PROBLEM = record({"type": text, "message": text, "details": text, "extra_info": anything})
_NODE_ERRORS = mapping(record({"errors": array(_PROBLEM), "dependent_outputs": array(text), "class_type": text}))

SCHEMAS: dict[str, Schema] = {
    "Refusal": {
        "description": "Why a request was refused, in words for people.",
        **record({"error": {"anyOf": [text, _ERROR]}}, {"node_errors": _NODE_ERRORS}),
    },
    "Node": record(
        {"class_type": text},
        {
            "inputs": {"type": "object", "description": 'Values by name; a link is ["id of the other node", output number].'},
            "_meta": record({}, {"title": text, "version": integer(minimum=1)}),
        },
    ),
    "Workflow": {"description": "The graph to run (API format): nodes by id.", **mapping(named("Node"))},
    "PromptRequest": record(
        {"prompt": named("Workflow")},
        {
            "client_id": {"type": "string", "description": "The clientId of the WebSocket that the events go to."},
            "prompt_id": {"type": "string", "format": "uuid", "description": "Your own id for the run; must be new."},
            "extra_data": {
                "type": "object",
                "description": "Kept with the run. extra_pnginfo is written into the pictures that the run saves.",
                "properties": {"extra_pnginfo": anything},
            },
            "front": {"type": "boolean", "description": "Run before everything that waits."},
            "number": {"type": "number", "description": "Explicit priority; lower runs first."},
            "partial_execution_targets": {**array(text), "description": "Ids of the output nodes to run; all when absent."},
        },
    ),
    "PromptAccepted": record({"prompt_id": text, "number": number, "node_errors": _NODE_ERRORS}),
    "PromptRefused": record({"error": _ERROR, "node_errors": _NODE_ERRORS}),
    "QueueLength": record({"exec_info": record({"queue_remaining": integer(minimum=0)})}),
    "QueueRow": {
        "description": "[number, id, workflow, extra data, ids of the wanted outputs]",
        "type": "array",
        "minItems": 5,
        "maxItems": 5,
        "prefixItems": [number, text, anything, anything, array(text)],
    },
    "Queue": record({"queue_running": array(named("QueueRow")), "queue_pending": array(named("QueueRow"))}),
    "QueueChange": record({}, {"clear": flag, "delete": array(text)}),
    "HistoryEntry": record(
        {
            "prompt": named("QueueRow"),
            "outputs": mapping(anything),
            "meta": mapping(anything),
            "status": record({"status_str": {"enum": ["success", "error"]}, "completed": flag, "messages": array({"type": "array"})}),
        }
    ),
    "History": mapping(named("HistoryEntry")),
    "Job": record(
        {
            "id": text,
            "status": {"enum": ["pending", "in_progress", "completed", "failed", "cancelled"]},
            "create_time": {**number, "description": "Milliseconds since the epoch."},
        },
        {
            "priority": number,
            "execution_start_time": maybe(number),
            "execution_end_time": maybe(number),
            "outputs_count": maybe(integer()),
            "previewable_outputs_count": maybe(integer()),
            "preview_output": maybe(anything),
            "execution_error": maybe(anything),
            "workflow_id": maybe(text),
            "outputs": mapping(anything),
            "workflow": maybe(anything),
            "execution_status": maybe(anything),
        },
    ),
    "Jobs": record(
        {
            "jobs": array(named("Job")),
            "pagination": record({"offset": integer(), "limit": maybe(integer()), "total": integer(), "has_more": flag}),
        }
    ),
    "Cancelled": record({"cancelled": flag}),
    "StoredFile": record({"name": text, "subfolder": text, "type": {"enum": ["input", "output", "temp"]}}),
    "FileInfo": record(
        {"path": text, "size": integer(), "modified": {**integer(), "description": "Milliseconds."}}, {"created": integer()}
    ),
    "System": record(
        {
            "system": record(
                {"os": text, "ram_total": integer(), "ram_free": integer(), "python_version": text, "argv": array(text)},
                {"comfyui_version": text, "pytorch_version": text, "embedded_python": flag, "required_frontend_version": text},
            ),
            "devices": array(
                record({"name": text, "type": text, "vram_total": integer(), "vram_free": integer()}, {"index": maybe(integer())})
            ),
        }
    ),
    "Memory": record(
        {
            "server": record({"pid": integer(), "resident_bytes": integer()}),
            "workers": array(
                record(
                    {
                        "name": text,
                        "device": text,
                        "state": {"enum": ["starting", "idle", "running", "dead"]},
                        "pid": maybe(integer()),
                        "run": maybe(text),
                        "restarts": integer(),
                        "resident_bytes": maybe(integer()),
                        "budget_bytes": integer(),
                        "used_bytes": integer(),
                        "residents": array(record({"owner": text, "place": text, "bytes": integer()})),
                    }
                )
            ),
        }
    ),
}
