"""Operations on runs: submit, list, cancel, history."""

from __future__ import annotations

from server.openapi.operation import Operation, Parameter, Schema, array, empty, integer, json_body, mapping, ref

__all__ = ["RUNS"]

_text: Schema = {"type": "string"}
_flag: Schema = {"type": "boolean"}
_id = (Parameter("id", "The id of a run.", {"type": "string", "minLength": 1}),)
_refused = ("The request is not as described.", ref("Refusal"))
_many = ("Too many runs wait; try later.", ref("Refusal"))
_big = ("The body is too large.", ref("Refusal"))
_JOB_STATUS = ("pending", "in_progress", "completed", "failed", "cancelled")

RUNS = (
    Operation(
        "POST",
        "/prompt",
        "runs",
        "Submit a workflow",
        {
            200: ("Accepted. node_errors lists outputs that cannot run while others do.", ref("PromptAccepted")),
            400: ("Nothing can run; every problem is named with its node and input.", ref("PromptRefused")),
            413: _big,
            429: _many,
        },
        body=ref("PromptRequest"),
    ),
    Operation("GET", "/prompt", "runs", "How many runs wait or run", {200: ("The number.", ref("QueueLength"))}),
    Operation("GET", "/queue", "runs", "The runs that run and wait", {200: ("Both lists, in order.", ref("Queue"))}),
    Operation(
        "POST",
        "/queue",
        "runs",
        "Remove waiting runs",
        {200: ("Done.", empty), 400: _refused, 413: _big},
        body=ref("QueueChange"),
    ),
    Operation(
        "POST",
        "/interrupt",
        "runs",
        "Stop what runs now, or only the run of this id if it runs",
        {200: ("Done.", empty), 400: _refused, 413: _big},
        body=json_body({"type": "object", "properties": {"prompt_id": _text}}),
        body_required=False,
    ),
    Operation(
        "POST",
        "/free",
        "runs",
        "Let go of models or of kept results after the present run",
        {200: ("Done.", empty), 400: _refused, 413: _big},
        body=json_body({"type": "object", "properties": {"unload_models": _flag, "free_memory": _flag}}),
        body_required=False,
    ),
    Operation(
        "GET",
        "/history",
        "runs",
        "Finished runs in the order in which they finished",
        {200: ("By id.", ref("History")), 400: _refused},
        query=(
            Parameter("max_items", "The newest so many, or so many from the offset.", integer(minimum=0, maximum=2**31)),
            Parameter("offset", "How many to pass over, from the oldest.", integer(minimum=0, maximum=2**31)),
        ),
    ),
    Operation(
        "POST",
        "/history",
        "runs",
        "Forget finished runs",
        {200: ("Done.", empty), 400: _refused, 413: _big},
        body=ref("QueueChange"),
    ),
    Operation(
        "GET",
        "/history/{id}",
        "runs",
        "One finished run",
        {200: ("The run by its id; an empty object when it has not finished or there is none.", ref("History"))},
        within=_id,
    ),
    Operation(
        "GET",
        "/jobs",
        "runs",
        "Runs of any state, page by page",
        {200: ("One page.", ref("Jobs")), 400: _refused},
        query=(
            Parameter("status", f"Any of {', '.join(_JOB_STATUS)}, with commas between.", _text),
            Parameter("limit", "How many on a page.", integer(minimum=1, maximum=10_000)),
            Parameter("offset", "How many to pass over.", integer(minimum=0, maximum=2**31)),
            Parameter("workflow_id", "Only runs of the editor graph of this id.", _text),
            Parameter("sort_by", "What to sort by.", {"enum": ["created_at", "execution_duration"]}),
            Parameter("sort_order", "Which way.", {"enum": ["asc", "desc"]}),
        ),
    ),
    Operation(
        "GET",
        "/jobs/{id}",
        "runs",
        "One run with its workflow and outputs",
        {200: ("The run.", ref("Job")), 404: ("There is no such run.", ref("Refusal"))},
        within=_id,
    ),
    Operation(
        "POST",
        "/jobs/{id}/cancel",
        "runs",
        "Cancel a run, waiting or running",
        {200: ("Whether it was there to cancel.", ref("Cancelled")), 413: _big},
        within=_id,
    ),
    Operation(
        "POST",
        "/jobs/cancel",
        "runs",
        "Cancel several runs",
        {200: ("Whether any was there to cancel.", ref("Cancelled")), 400: _refused, 413: _big},
        body=json_body({"type": "object", "properties": {"job_ids": array(_text)}, "required": ["job_ids"]}),
    ),
    Operation(
        "GET",
        "/jobs/{id}/assets",
        "runs",
        "Registered assets of a run; there is no registry, so always none",
        {404: ("No assets are registered.", json_body(mapping()))},
        within=_id,
    ),
)
