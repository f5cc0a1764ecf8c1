"""The editor's settings, and the one user that they belong to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from server import preferences
from server.refusal import Refused

if TYPE_CHECKING:
    from server.state import ServerState

__all__ = ["routes"]

_MOST_BYTES = 1 << 20


def routes() -> list[BaseRoute]:
    """What this file answers, without a prefix."""
    return [
        Route("/users", users),
        Route("/users", add_user, methods=["POST"]),
        Route("/settings", settings),
        Route("/settings", change_settings, methods=["POST"]),
        Route("/settings/{id:rest}", setting),
        Route("/settings/{id:rest}", change_setting, methods=["POST"]),
    ]


async def users(request: Request) -> Response:
    """How user data is kept: by the server, for one user (a `users` key would mean several)."""
    return JSONResponse({"storage": "server", "migrated": True})


async def add_user(request: Request) -> Response:
    """Refused: there is one user."""
    raise Refused(400, "this server has one user; no other can be added")


async def settings(request: Request) -> Response:
    """All settings by id."""
    return JSONResponse(await run_in_threadpool(preferences.load, _user(request)))


async def setting(request: Request) -> Response:
    """One setting, or null."""
    known = await run_in_threadpool(preferences.load, _user(request))
    return JSONResponse(known.get(request.path_params["id"]))


async def change_settings(request: Request) -> Response:
    """Set several settings."""
    values = await _json(request)
    if not isinstance(values, dict):
        raise Refused(400, f"settings are a JSON object, not {type(values).__name__}")
    await run_in_threadpool(preferences.change, _user(request), values)
    return JSONResponse(None)  # an empty body that nobody reads is a failed request to Chromium


async def change_setting(request: Request) -> Response:
    """Set one setting; the body is its bare JSON value."""
    value = await _json(request)
    await run_in_threadpool(preferences.change, _user(request), {request.path_params["id"]: value})
    return JSONResponse(None)  # an empty body that nobody reads is a failed request to Chromium


def _user(request: Request) -> Path:
    server: ServerState = request.app.state.server
    return server.settings.user


async def _json(request: Request) -> Any:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_BYTES:
            raise Refused(413, f"settings take at most {_MOST_BYTES} bytes")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the body is not JSON: {str(error)[:200]}") from error
