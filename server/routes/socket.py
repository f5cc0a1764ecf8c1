"""The WebSocket: one task reads what the client says, one writes what the hub has for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Awaitable

import anyio
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from server.hub import Hub
from server.outbox import Frame, Outbox
from server.previews import fitted
from server.protocol.binary import plain_preview, preview_with_metadata
from server.protocol.messages import Preview
from server.state import ServerState

__all__ = ["routes"]

_STALLED = 30.0  # seconds that a message may wait for a client that does not read
_BREATH = 32  # messages after which others have their turn
_LONGEST = 256  # letters of a client id
_log = logging.getLogger(__name__)


def routes() -> list[BaseRoute]:
    """What this file answers, without a prefix."""
    return [WebSocketRoute("/ws", socket)]


async def socket(websocket: WebSocket) -> None:
    """Events for one client: `clientId` names it, `since` is the number of the last event it knows."""
    server: ServerState = websocket.app.state.server
    query = websocket.query_params
    client, since = query.get("clientId") or uuid.uuid4().hex, query.get("since")
    if server.hub.full:
        await _deny(websocket, 429, f"{server.hub.sockets} clients are connected already")
    elif len(client) > _LONGEST or not client.isprintable():
        await _deny(websocket, 400, f"clientId must be at most {_LONGEST} printable letters")
    elif since is not None and not (since.isascii() and since.isdecimal() and len(since) < 19):
        await _deny(websocket, 400, "since must be the number of an event")
    else:
        await websocket.accept()
        outbox = server.hub.open(client, None if since is None else int(since))
        try:
            await _serve(websocket, server, outbox)
        finally:
            server.hub.close(client, outbox)


async def _serve(websocket: WebSocket, server: ServerState, outbox: Outbox) -> None:
    """Read and write until one of the two is over."""

    async def first(over: Awaitable[None]) -> None:
        await over
        both.cancel_scope.cancel()

    async with anyio.create_task_group() as both:
        both.start_soon(first, _read(websocket, server.hub, outbox, server.settings.message_limit))
        both.start_soon(first, _write(websocket, outbox, server.settings.preview_size))


async def _deny(websocket: WebSocket, status: int, why: str) -> None:
    await websocket.send_denial_response(JSONResponse({"error": why}, status))


async def _read(websocket: WebSocket, hub: Hub, outbox: Outbox, limit: int) -> None:
    while True:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            return
        text = message.get("text")
        if len(text or message.get("bytes") or b"") > limit:
            with contextlib.suppress(WebSocketDisconnect):
                await websocket.close(1009, f"a message may have {limit} bytes")
            return
        if text is not None:
            hub.heard(outbox, text)


async def _write(websocket: WebSocket, outbox: Outbox, longest: int) -> None:
    loop, wake, count = asyncio.get_running_loop(), asyncio.Event(), 0
    outbox.wake = wake.set
    while True:
        wake.clear()
        taken = outbox.take(loop.time())
        if taken is None:
            due = outbox.due
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if due is None else max(due - loop.time(), 0)):
                    await wake.wait()
            continue
        try:
            async with asyncio.timeout(_STALLED):
                if isinstance(taken, Frame):
                    await websocket.send_text(taken.text)
                    outbox.sent(taken)
                else:
                    await _show(websocket, outbox, taken, longest)
        except WebSocketDisconnect:
            return
        except TimeoutError:
            _log.info("a client that does not read is disconnected")
            return
        count += 1
        if count % _BREATH == 0:
            await asyncio.sleep(0)


async def _show(websocket: WebSocket, outbox: Outbox, preview: Preview, longest: int) -> None:
    small = await asyncio.to_thread(fitted, preview, longest)
    frame = None if small is None else preview_with_metadata(small) if outbox.metadata else plain_preview(small)
    if frame is not None:
        await websocket.send_bytes(frame)
