"""Runs of any state as the editor's queue panel lists them."""

from __future__ import annotations

from typing import Any, Literal, TypeGuard

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from server.protocol.messages import encode
from server.protocol.shapes import JOB_STATUSES, detail, job
from server.protocol.submission import Declined, body_of
from server.refusal import Refused
from server.state import ServerState

__all__ = ["are_ids", "request_body", "routes", "whole"]

_PAGE, _MOST = 200, 10_000  # items
_SORTED: dict[str, Literal["created_at", "execution_duration"]] = {"created_at": "created_at", "execution_duration": "execution_duration"}


def routes() -> list[BaseRoute]:
    """What this file answers, without a prefix."""
    return [
        Route("/jobs", listing),
        Route("/jobs/cancel", cancel_several, methods=["POST"]),
        Route("/jobs/{id}", one),
        Route("/jobs/{id}/cancel", cancel, methods=["POST"]),
        Route("/jobs/{id}/assets", assets),
    ]


async def listing(request: Request) -> Response:
    """One page of the runs in some states, the newest first unless asked otherwise."""
    server: ServerState = request.app.state.server
    query = request.query_params
    named = [name.strip() for name in query.get("status", "").split(",") if name.strip()] or list(JOB_STATUSES)
    if unknown := [name for name in named if name not in JOB_STATUSES]:
        raise Refused(400, f"status is any of {', '.join(JOB_STATUSES)}, not {unknown[0][:40]!r}")
    limit, offset = whole(request, "limit", _PAGE, low=1, high=_MOST), whole(request, "offset", 0, low=0, high=2**31)
    sort_by = _SORTED.get(query.get("sort_by") or "created_at")
    if sort_by is None:
        raise Refused(400, f"sort_by is one of {', '.join(_SORTED)}, not {query['sort_by'][:40]!r}")
    order = query.get("sort_order") or "desc"
    if order not in ("asc", "desc"):
        raise Refused(400, f"sort_order is asc or desc, not {order[:40]!r}")
    assert limit is not None
    assert offset is not None
    runs, total = server.journal.jobs(
        {JOB_STATUSES[name] for name in named},
        limit=limit,
        offset=offset,
        sort_by=sort_by,
        descending=order == "desc",
        workflow_id=query.get("workflow_id") or None,
    )
    page = {"offset": offset, "limit": limit, "total": total, "has_more": offset + len(runs) < total}
    return Response(encode({"jobs": [job(run) for run in runs], "pagination": page}), media_type="application/json")


async def one(request: Request) -> Response:
    """A run with its workflow and outputs."""
    server: ServerState = request.app.state.server
    run = server.journal.get(request.path_params["id"])
    if run is None:
        raise Refused(404, "there is no such job")
    return Response(encode(detail(run)), media_type="application/json")


async def cancel(request: Request) -> Response:
    """Cancel a run, waiting or running; whether it was there to cancel."""
    server: ServerState = request.app.state.server
    return JSONResponse({"cancelled": server.dispatcher.cancel(request.path_params["id"])})


async def cancel_several(request: Request) -> Response:
    """Cancel runs, waiting or running; whether any was there to cancel."""
    server: ServerState = request.app.state.server
    ids = (await request_body(request)).get("job_ids")
    if not are_ids(ids):
        raise Refused(400, 'the body must be {"job_ids": [ids]}')
    found = [server.dispatcher.cancel(id) for id in dict.fromkeys(ids)]
    return JSONResponse({"cancelled": any(found)})


async def assets(request: Request) -> Response:
    """Assets that a run has registered: there is no registry."""
    raise Refused(404, "there is no registry of assets")


async def request_body(request: Request, empty: dict[str, Any] | None = None) -> dict[str, Any]:
    """The JSON object of a request; `empty` when there is none and that is allowed. Raises Refused for anything else."""
    try:
        return body_of(await request.body(), empty=empty)
    except Declined as declined:
        error = declined.body["error"]
        raise Refused(400, f"{error['message']}: {error['details']}".removesuffix(": ")) from declined


def are_ids(value: object) -> TypeGuard[list[str]]:
    """Whether it is a list of texts."""
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def whole(request: Request, name: str, default: int | None, *, low: int, high: int) -> int | None:
    """A whole number of the query. Raises Refused for anything else."""
    text = request.query_params.get(name)
    if not text:
        return default
    try:
        value = int(text) if len(text) < 20 else high + 1
    except ValueError:
        raise Refused(400, f"{name} must be a whole number, not {text[:40]!r}") from None
    if not low <= value <= high:
        raise Refused(400, f"{name} must lie between {low} and {high}")
    return value
