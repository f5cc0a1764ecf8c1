"""The files that the editor keeps on the server: workflows, subgraphs, key bindings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from server.confine import BadName, inside, relative
from server.media import STORED
from server.refusal import Refused, flag, named
from server.userfiles import EXPECTED_FILES, EXPECTED_FOLDERS, entries, facts, listed
from server.writing import place, staged

if TYPE_CHECKING:
    from server.state import ServerState

__all__ = ["routes"]


def routes() -> list[BaseRoute]:
    """What this file answers, without a prefix."""
    return [
        Route("/userdata", files),
        Route("/v2/userdata", files_and_folders),
        Route("/userdata/{rest:rest}", read),
        Route("/userdata/{rest:rest}", write_or_move, methods=["POST"]),
        Route("/userdata/{rest:rest}", delete, methods=["DELETE"]),
    ]


async def files(request: Request) -> Response:
    """The files in a folder."""
    if not (name := request.query_params.get("dir", "")):
        raise Refused(400, "dir is missing")
    recurse, split, full = flag(request, "recurse", False), flag(request, "split", False), flag(request, "full_info", False)
    folder = _path(request, name)
    return JSONResponse(await run_in_threadpool(_listing, folder, name.strip("/"), recurse, split, full))


async def files_and_folders(request: Request) -> Response:
    """The files and folders directly in a folder."""
    name = request.query_params.get("path", "").strip("/")
    try:
        found = await run_in_threadpool(entries, _user(request), name)
    except BadName as error:
        raise named(error) from error
    if found is None:
        raise Refused(404, f"there is no folder {name!r}")
    return JSONResponse(found)


async def read(request: Request) -> Response:
    """The bytes of one file, to download; only user.css goes out as what it is."""
    name = "/".join(_segments(request))
    path = _path(request, name)
    shown = name == "user.css"
    headers = {**STORED, "Cache-Control": "no-store"}
    kind = "text/css" if shown else "application/json" if path.suffix == ".json" else "application/octet-stream"
    if not await run_in_threadpool(path.is_file):
        if name not in EXPECTED_FILES:
            raise Refused(404, f"there is no {name!r}")
        return Response(EXPECTED_FILES[name], headers=headers, media_type=kind)
    disposition = "inline" if shown else "attachment"
    stat = await run_in_threadpool(path.stat)
    return FileResponse(path, headers=headers, media_type=kind, filename=path.name, stat_result=stat, content_disposition_type=disposition)


async def write_or_move(request: Request) -> Response:
    """`POST …/{file}` writes the body, `POST …/{file}/move/{other}` renames."""
    segments = _segments(request)
    if "move" in segments[1:-1]:
        at = segments.index("move", 1)
        return await _move(request, "/".join(segments[:at]), "/".join(segments[at + 1 :]))
    return await _write(request, "/".join(segments))


async def delete(request: Request) -> Response:
    """Delete one file."""
    name = "/".join(_segments(request))
    path = _path(request, name)
    if not await run_in_threadpool(path.is_file):
        raise Refused(404, f"there is no {name!r}")
    await run_in_threadpool(path.unlink, missing_ok=True)
    return Response(status_code=204)


async def _write(request: Request, name: str) -> Response:
    path = _path(request, name)
    overwrite = flag(request, "overwrite", True)
    flag(request, "full_info", False)
    if not overwrite and await run_in_threadpool(path.exists):
        raise Refused(409, f"there is a {name!r} already")
    try:
        with staged(path.parent) as (file, part):
            async for chunk in request.stream():
                file.write(chunk)
            file.flush()
            await run_in_threadpool(os.fsync, file.fileno())
            place(part, path, overwrite=overwrite)
    except FileExistsError as error:
        if path.exists() and path.is_file():
            raise Refused(409, f"there is a {name!r} already") from error
        raise Refused(400, f"{name!r} cannot be a file: a file or folder is in its way") from error
    except (NotADirectoryError, IsADirectoryError) as error:
        raise Refused(400, f"{name!r} cannot be a file: a file or folder is in its way") from error
    return _told(request, path)


async def _move(request: Request, name: str, other: str) -> Response:
    path, new = _path(request, name), _path(request, other)
    overwrite = flag(request, "overwrite", True)
    flag(request, "full_info", False)
    if not path.is_file():
        raise Refused(404, f"there is no {name!r}")
    if path == new:
        return _told(request, new)
    try:
        new.parent.mkdir(parents=True, exist_ok=True)
        place(path, new, overwrite=overwrite)
        path.unlink(missing_ok=True)
    except FileExistsError as error:
        if new.is_file():
            raise Refused(409, f"there is a {other!r} already") from error
        raise Refused(400, f"{other!r} cannot be a file: a file or folder is in its way") from error
    except (NotADirectoryError, IsADirectoryError) as error:
        raise Refused(400, f"{other!r} cannot be a file: a file or folder is in its way") from error
    return _told(request, new)


def _user(request: Request) -> Path:
    server: ServerState = request.app.state.server
    return server.settings.user


def _path(request: Request, name: str) -> Path:
    try:
        if not relative(name).parts:
            raise BadName("the name is empty")
        return inside(_user(request), name)
    except BadName as error:
        raise named(error) from error


def _segments(request: Request) -> list[str]:
    """The parts of the URL after `/userdata/`, each decoded once: a slash inside a name came as %2F, so the decoded
    `path` of the request cannot tell it from one between names.
    """
    scope = request.scope
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    _, _, rest = raw.partition(b"?")[0].partition(b"/userdata/")
    try:
        return [unquote_to_bytes(part).decode() for part in rest.split(b"/")]
    except UnicodeDecodeError as error:
        raise Refused(400, "the name is not UTF-8") from error


def _told(request: Request, path: Path) -> Response:
    name = path.relative_to(os.path.realpath(_user(request))).as_posix()
    return JSONResponse(facts(path, name) if flag(request, "full_info", False) else name)


def _listing(folder: Path, name: str, recurse: bool, split: bool, full: bool) -> list[Any]:
    if not folder.is_dir():
        if name in EXPECTED_FOLDERS:
            return []
        raise Refused(404, f"there is no folder {name!r}")
    found = [(path, path.relative_to(folder).as_posix()) for path in listed(folder, recurse=recurse)]
    if full:
        return [facts(path, below) for path, below in found]
    return [[below, *below.split("/")] if split else below for _, below in found]
