"""Pictures and other files of a run: looking at them, and the lists of what there is."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from graph_engine.files import KINDS
from server import pixels
from server.media import PICTURES, STORED, media_type
from server.models import shipped_file
from server.refusal import Refused
from server.routes import uploads
from server.stored import OWN, find, newest_first

if TYPE_CHECKING:
    from server.state import ServerState

__all__ = ["routes"]


def routes() -> list[BaseRoute]:
    """What this file answers, without a prefix."""
    return [
        Route("/view", view),
        Route("/internal/files/{type}", files),
        Route("/internal/folder_paths", folder_paths),
        *uploads.routes(),
    ]


async def view(request: Request) -> Response:
    """A file of the input, output or temp folder; a picture also re-encoded (`preview`) or by channel."""
    server: ServerState = request.app.state.server
    query = request.query_params
    name, kind = query.get("filename", ""), query.get("type") or "output"
    if marked := re.fullmatch(r"(.*\S) \[(input|output|temp)\]", name, re.DOTALL):
        name, kind = marked[1], marked[2]
    below = query.get("subfolder", "")
    path = None if below else shipped_file(server.specs, kind, name)  # it goes first, as it does in a run
    path = path or await run_in_threadpool(find, server.folders, kind, below, name)
    if path is None:
        raise Refused(404, f"there is no {name!r} in {kind}")
    channel, encoding = query.get("channel") or "rgba", query.get("preview")
    if channel not in ("rgba", "rgb", "a"):
        raise Refused(400, f"channel is rgba, rgb or a, not {channel[:40]!r}")
    picture = path.suffix.lower() in PICTURES
    if picture and (encoding is not None or channel != "rgba"):
        return await _remade(request, path, channel, encoding, server.settings.pixel_limit)
    return await _as_it_is(request, path)


async def files(request: Request) -> Response:
    """Names in the input, output or temp folder, the newest first."""
    server: ServerState = request.app.state.server
    kind = request.path_params["type"]
    if kind not in OWN:
        raise Refused(400, f"the folder is one of {', '.join(OWN)}, not {kind[:40]!r}")
    return JSONResponse(await run_in_threadpool(newest_first, server.folders, kind))


async def folder_paths(request: Request) -> Response:
    """The folders of every kind of file."""
    server: ServerState = request.app.state.server
    return JSONResponse({kind: [str(place) for place in server.folders.places(kind)] for kind in KINDS})


async def _as_it_is(request: Request, path: Path) -> Response:
    kind, shown = media_type(path.name)
    extra = dict(STORED)
    if path.suffix.lower() == ".svg" and request.headers.get("sec-fetch-dest") == "image":
        kind, shown = "image/svg+xml", True  # inside <img>, where no script runs
    if path.suffix.lower() == ".svg":
        extra |= {"Vary": "Sec-Fetch-Dest", "Cache-Control": "no-store"}
    response = FileResponse(
        path,
        headers=extra,
        media_type=kind,
        filename=path.name,
        stat_result=await run_in_threadpool(path.stat),
        content_disposition_type="inline" if shown else "attachment",
    )
    return _unchanged(request, response.headers["etag"]) or response


async def _remade(request: Request, path: Path, channel: str, encoding: str | None, limit: int) -> Response:
    stat = await run_in_threadpool(path.stat)
    etag = f'"{hashlib.blake2b(f"{stat.st_mtime_ns} {stat.st_size} {channel} {encoding}".encode(), digest_size=16).hexdigest()}"'
    if unchanged := _unchanged(request, etag):
        return unchanged
    try:
        if encoding is not None and channel != "a":
            data, kind = await run_in_threadpool(pixels.preview, path, encoding, limit, alpha=channel == "rgba")
        else:
            data, kind = await run_in_threadpool(pixels.channel, path, channel, limit), "image/png"
    except pixels.TooManyPixels as error:
        raise Refused(413, str(error)) from error
    except pixels.NotThis as error:
        raise Refused(400, str(error)) from error
    suffix = "." + kind.partition("/")[2]
    disposition = FileResponse(path, filename=path.stem + suffix, content_disposition_type="inline").headers["content-disposition"]
    return Response(data, headers={**STORED, "ETag": etag, "Content-Disposition": disposition}, media_type=kind)


def _unchanged(request: Request, etag: str) -> Response | None:
    known = [each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")]
    return Response(status_code=304, headers={**STORED, "ETag": etag}) if etag in known else None
