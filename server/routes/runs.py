"""Submitting runs, and the queue and history of those that were."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from server.journal import Duplicate
from server.protocol.errors import refusal
from server.protocol.messages import encode
from server.protocol.shapes import history_entry, queue_row
from server.protocol.submission import Declined, Submission
from server.refusal import Refused
from server.routes import jobs
from server.runs import Run
from server.state import ServerState

__all__ = ["routes"]

T = TypeVar("T")

_SMALL = 32 << 10  # bytes of a body that are read and checked at once, without a thread
_CHUNK = 50  # history entries that are read at a time
_MOST = 2**31


def routes() -> list[BaseRoute]:
    """What this file answers, without a prefix."""
    return [
        Route("/prompt", submit, methods=["POST"]),
        Route("/prompt", length),
        Route("/queue", queue),
        Route("/queue", unqueue, methods=["POST"]),
        Route("/history", history),
        Route("/history", forget, methods=["POST"]),
        Route("/history/{id}", entry),
        Route("/interrupt", interrupt, methods=["POST"]),
        Route("/free", free, methods=["POST"]),
        *jobs.routes(),
    ]


async def submit(request: Request) -> Response:
    """Queue a workflow. What can run of it is run; what cannot is named by node and input."""
    server: ServerState = request.app.state.server
    try:
        return _json(await _accepted(server, await request.body()))
    except Declined as declined:
        headers = {"Retry-After": "1"} if declined.status == 429 else None
        return _json(declined.body, declined.status, headers)


async def _accepted(server: ServerState, body: bytes) -> dict[str, Any]:
    limit = server.settings.queue_limit
    if server.journal.counts()[0] >= limit:
        raise Declined(429, refusal("queue_full", f"{limit} runs wait already; try again later"))
    submission = await _aside(len(body), lambda: Submission.read(body, server.specs, server.folders, server.definitions))
    if submission.needs_classes:
        submission.add(await server.dispatcher.check(submission.new.document, submission.outputs) or ())
    new, errors = await _aside(len(body) if submission.problems else 0, submission.settle)
    try:
        run = server.dispatcher.submit(new)
    except Duplicate as duplicate:
        raise Declined(400, refusal("invalid_prompt_id", str(duplicate), "give every run its own prompt_id")) from duplicate
    return {"prompt_id": run.id, "number": run.number, "node_errors": errors}


async def length(request: Request) -> Response:
    """How many runs wait or run."""
    server: ServerState = request.app.state.server
    return _json({"exec_info": {"queue_remaining": sum(server.journal.counts())}})


async def queue(request: Request) -> Response:
    """The runs that run and wait, each in order."""
    server: ServerState = request.app.state.server
    running, pending = (",".join(map(queue_row, runs)) for runs in (server.journal.running(), server.journal.pending()))
    return Response(f'{{"queue_running":[{running}],"queue_pending":[{pending}]}}', media_type="application/json")


async def unqueue(request: Request) -> Response:
    """Take runs out of the queue: those of `delete`, or all with `clear`."""
    server: ServerState = request.app.state.server
    clear, ids = await _change(request)
    if (clear and server.journal.remove_pending(None)) or (ids and server.journal.remove_pending(ids)):
        server.hub.queue_changed(sum(server.journal.counts()))
    return Response()


async def history(request: Request) -> Response:
    """Finished runs by id, in the order in which they finished: the newest `max_items`, or so many from `offset` on."""
    server: ServerState = request.app.state.server
    newest, offset = (jobs.whole(request, name, None, low=-1, high=_MOST) for name in ("max_items", "offset"))
    runs = server.journal.history(None if newest is None or newest < 0 else newest, None if offset is None or offset < 0 else offset)
    return StreamingResponse(_entries(runs), media_type="application/json")


async def entry(request: Request) -> Response:
    """One finished run by its id; an empty object when there is none."""
    server: ServerState = request.app.state.server
    run = server.journal.get(request.path_params["id"])
    shown = "" if run is None or run.finished is None or run.started is None else f"{encode(run.id)}:{history_entry(run)}"
    return Response(f"{{{shown}}}", media_type="application/json")


async def forget(request: Request) -> Response:
    """Forget finished runs: those of `delete`, or all with `clear`."""
    server: ServerState = request.app.state.server
    clear, ids = await _change(request)
    if clear:
        server.journal.forget(None)
    elif ids:
        server.journal.forget(ids)
    return Response()


async def interrupt(request: Request) -> Response:
    """Stop what runs now; with a `prompt_id`, only if it is that run."""
    server: ServerState = request.app.state.server
    id = (await jobs.request_body(request, {})).get("prompt_id")
    if id is not None and not isinstance(id, str):
        raise Refused(400, "prompt_id must be a text")
    server.dispatcher.interrupt(id or None)
    return Response()


async def free(request: Request) -> Response:
    """Let go of models (`unload_models`), or of everything that is remembered (`free_memory`), after the present run."""
    server: ServerState = request.app.state.server
    body = await jobs.request_body(request, {})
    server.dispatcher.free(body.get("unload_models") is True, body.get("free_memory") is True)
    return Response()


async def _change(request: Request) -> tuple[bool, list[str]]:
    body = await jobs.request_body(request)
    ids = body.get("delete")
    if not isinstance(body.get("clear", False), bool) or not (ids is None or jobs.are_ids(ids)):
        raise Refused(400, 'the body must be {"clear": true} or {"delete": [ids]}')
    return body.get("clear", False), ids or []


async def _entries(runs: Iterable[Run]) -> AsyncIterator[str]:
    between = "{"
    for count, run in enumerate(runs, 1):
        yield f"{between}{encode(run.id)}:{history_entry(run)}"
        between = ","
        if count % _CHUNK == 0:
            await asyncio.sleep(0)
    yield "{}" if between == "{" else "}"


async def _aside(size: int, work: Callable[[], T]) -> T:
    """Large bodies are dealt with in a thread, so that others are answered meanwhile."""
    return work() if size <= _SMALL else await asyncio.to_thread(work)


def _json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(encode(content), status, headers, media_type="application/json")
