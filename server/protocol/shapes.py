"""Runs as the queue, the history and the jobs list show them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from server.protocol.messages import encode
from server.runs import Run, Status

__all__ = ["JOB_STATUSES", "detail", "history_entry", "job", "queue_row"]

JOB_STATUSES: dict[str, Status] = {  # as clients call them
    "pending": "pending",
    "in_progress": "running",
    "completed": "success",
    "failed": "error",
    "cancelled": "interrupted",
}
_CALLED = {ours: theirs for theirs, ours in JOB_STATUSES.items()}
_PREVIEWABLE = ("images", "video", "gifs", "audio", "3d")
_PLACES = ("output", "temp", "input")  # the first is preferred


def queue_row(run: Run) -> str:
    """`[number, id, workflow, extra data, output ids]` as JSON."""
    return f"[{encode(run.number)},{encode(run.id)},{run.text('document')},{run.text('extra')},{run.text('targets')}]"


def history_entry(run: Run) -> str:
    """A finished run as JSON, made from the texts of the journal without reading them."""
    completed = run.status == "success"
    status = (
        f'{{"status_str":"{"success" if completed else "error"}","completed":{json.dumps(completed)},"messages":{run.text("messages")}}}'
    )
    return f'{{"prompt":{queue_row(run)},"outputs":{run.text("outputs")},"meta":{run.text("meta")},"status":{status}}}'


def job(run: Run) -> dict[str, Any]:
    """A run as one item of the jobs list, which the editor drops as a whole when one item is not of this shape."""
    items = list(_items(run.outputs))
    made: dict[str, Any] = {
        "id": run.id,
        "status": _CALLED[run.status],
        "create_time": run.created,
        "priority": run.number,
        "execution_start_time": run.started,
        "execution_end_time": run.finished,
        "outputs_count": len(items),
        "previewable_outputs_count": sum(_previewable(kind, item) for _, kind, item in items),
        "preview_output": _preview(items),
        "workflow_id": run.workflow_id,
    }
    if run.status == "error":
        made["execution_error"] = _error(run.error or {})
    return made


def detail(run: Run) -> dict[str, Any]:
    """A run with its outputs, its workflow, and how it went."""
    status = {
        "status_str": "success" if run.status == "success" else "error",
        "completed": run.status == "success",
        "messages": run.messages,
    }
    finished = run.status not in ("pending", "running")
    return {
        **job(run),
        "outputs": run.outputs,
        "execution_meta": run.meta,
        "execution_status": status if finished else None,
        "workflow": {"prompt": run.document, "extra_data": run.extra},
        "update_time": run.finished or run.started or run.created,
    }


def _items(outputs: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str, Any]]:
    """Everything that the nodes show: node, kind, item."""
    for node, output in outputs.items():
        for kind, items in output.items():
            if kind != "animated" and isinstance(items, list):
                for item in items:
                    yield node, kind, item


def _previewable(kind: str, item: Any) -> bool:
    return kind in _PREVIEWABLE and isinstance(item, dict) and item.get("type") in _PLACES and isinstance(item.get("filename"), str)


def _preview(items: list[tuple[str, str, Any]]) -> dict[str, Any] | None:
    """The first file that was kept, else the first there is."""
    shown = [each for each in items if _previewable(each[1], each[2])]
    if not shown:
        return None
    node, kind, item = min(shown, key=lambda each: _PLACES.index(each[2]["type"]))
    return {**item, "nodeId": node, "mediaType": kind}


def _error(error: Mapping[str, Any]) -> dict[str, Any]:
    texts = {name: str(error.get(name) or "") for name in ("node_id", "node_type", "exception_message", "exception_type")}
    return {**error, **texts, "traceback": [str(line) for line in error.get("traceback") or ()]}
