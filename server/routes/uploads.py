"""Pictures and masks that a client sends."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from graph_engine import Folders
from server import pixels
from server.confine import BadName, inside, relative
from server.media import PICTURES
from server.refusal import Refused, named
from server.stored import OWN, find
from server.writing import place, staged

if TYPE_CHECKING:
    from server.state import ServerState

__all__ = ["routes"]

_FILES, _FIELDS, _FIELD_BYTES = 4, 16, 64 << 10


def routes() -> list[BaseRoute]:
    """What this file answers, without a prefix."""
    return [Route("/upload/image", image, methods=["POST"]), Route("/upload/mask", mask, methods=["POST"])]


async def image(request: Request) -> Response:
    """Keep a file. The same name with the same content is the same file; with another content it gets a number."""
    server: ServerState = request.app.state.server
    async with _form(request) as form:
        sent = _sent(form)
        stored = await run_in_threadpool(_keep, server, form, sent.filename or "", sent.file)
    return JSONResponse(stored)


async def mask(request: Request) -> Response:
    """Keep the picture that `original_ref` names, with the alpha of the mask that is sent, as a PNG."""
    server: ServerState = request.app.state.server
    async with _form(request) as form:
        sent = _sent(form)
        original = _original(form)
        stored = await run_in_threadpool(_keep_masked, server, form, sent, original)
    return JSONResponse(stored)


@asynccontextmanager
async def _form(request: Request) -> AsyncIterator[FormData]:
    """The multipart form of a request, whose passing files are closed at the end."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise Refused(400, "an upload is a multipart/form-data body")
    try:
        form = await request.form(max_files=_FILES, max_fields=_FIELDS, max_part_size=_FIELD_BYTES)
    except HTTPException as error:
        raise Refused(error.status_code, error.detail, error.headers) from error
    except (ValueError, KeyError) as error:  # a boundary or charset that is none
        raise Refused(400, f"the multipart body cannot be read: {error}") from error
    try:
        yield form
    finally:
        await request.close()


def _sent(form: FormData) -> UploadFile:
    sent = form.get("image")
    if not isinstance(sent, UploadFile) or not sent.filename:
        raise Refused(400, "the form has no file named `image`")
    return sent


def _text(form: FormData, name: str, default: str = "") -> str:
    value = form.get(name, default)
    if not isinstance(value, str):
        raise Refused(400, f"{name} must be text, not a file")
    return value


def _original(form: FormData) -> Mapping[str, Any]:
    try:
        original = json.loads(_text(form, "original_ref"))
    except (ValueError, RecursionError) as error:
        raise Refused(400, 'original_ref must be JSON such as {"filename": "a.png", "type": "input", "subfolder": ""}') from error
    if not isinstance(original, dict) or not all(isinstance(value, str) for value in original.values()) or not original.get("filename"):
        raise Refused(400, "original_ref must be an object of texts with a filename")
    return original


def _target(folders: Folders, form: FormData, name: str) -> tuple[Path, PurePosixPath, str]:
    """The folder root, the path below it, and its kind. Raises Refused for names that lead out."""
    kind = _text(form, "type") or "input"
    if kind not in OWN:
        raise Refused(400, f"type is one of {', '.join(OWN)}, not {kind[:40]!r}")
    root = folders.places(kind)[0]
    try:
        below = relative(_text(form, "subfolder")) / relative(name)
        inside(root, str(below))
    except BadName as error:
        raise named(error, leads_out=400) from error
    if not relative(name).parts or below.name.startswith("."):
        raise Refused(400, f"{name!r} is no name for an upload")
    return root, below, kind


def _keep(server: ServerState, form: FormData, name: str, source: BinaryIO) -> dict[str, str]:
    root, below, kind = _target(server.folders, form, name)
    _check_pixels(source, below.suffix.lower() in PICTURES, server.settings.pixel_limit)
    overwrite = _text(form, "overwrite").strip().lower() in ("true", "1")
    source.seek(0)
    try:
        stored = _store(root, below, source, overwrite=overwrite)
    except BadName as error:  # with the number it got too long
        raise named(error, leads_out=400) from error
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise Refused(400, f"{str(below)!r} cannot be a file: a folder or file is in its way") from error
    return {"name": stored.name, "subfolder": str(stored.parent) if stored.parent.parts else "", "type": kind}


def _keep_masked(server: ServerState, form: FormData, sent: UploadFile, original: Mapping[str, Any]) -> dict[str, str]:
    path = find(server.folders, original.get("type") or "output", original.get("subfolder", ""), original["filename"])
    if path is None:
        raise Refused(404, f"there is no {original['filename']!r} to mask")
    try:
        data = pixels.with_mask(path, sent.file, server.settings.pixel_limit)
    except pixels.TooManyPixels as error:
        raise Refused(413, str(error)) from error
    except pixels.NotThis as error:
        raise Refused(400, str(error)) from error
    name = PurePosixPath(sent.filename or "")
    return _keep(server, form, str(name.with_suffix(".png")) if name.name else "", io.BytesIO(data))


def _check_pixels(source: BinaryIO, must_be_picture: bool, limit: int) -> None:
    try:
        pixels.look(source, limit)
    except pixels.TooManyPixels as error:
        raise Refused(413, str(error)) from error
    except pixels.NotThis as error:
        if must_be_picture:
            raise Refused(400, str(error)) from error


def _store(root: Path, below: PurePosixPath, source: BinaryIO, *, overwrite: bool) -> PurePosixPath:
    """Where the file is in the end, below the root."""
    folder = inside(root, str(below.parent))
    with staged(folder) as (file, part):
        shutil.copyfileobj(source, file, 1 << 20)
        file.flush()
        for number in count():
            name = below.with_stem(f"{below.stem} ({number})") if number else below
            path = inside(root, str(name))
            if not overwrite and path.is_file() and _same(part, path):
                return name
            try:
                place(part, path, overwrite=overwrite)
            except FileExistsError:
                continue
            return name
    raise AssertionError  # the numbers do not end


def _same(one: Path, other: Path) -> bool:
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as a, other.open("rb") as b:
        while left := a.read(1 << 20):
            if left != b.read(1 << 20):
                return False
    return True
