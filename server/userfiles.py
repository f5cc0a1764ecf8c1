"""The files that a user keeps: workflows, subgraphs, key bindings. Names are paths below the user's folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from server.confine import inside

__all__ = ["EXPECTED_FILES", "EXPECTED_FOLDERS", "entries", "facts", "listed"]

# what the editor asks for before it ever wrote it: an empty one, where a 404 would be an error in the browser's console
EXPECTED_FILES = {"comfy.templates.json": b"[]", "user.css": b"", "workflows/.index.json": b'{"favorites": []}'}
EXPECTED_FOLDERS = ("workflows", "subgraphs", "keybindings")


def listed(folder: Path, *, recurse: bool) -> list[Path]:
    """The files of a folder, sorted by name; nothing hidden, nothing that leads out of it."""
    root = Path(os.path.realpath(folder))
    return sorted(path for path in _walk(root, recurse) if Path(os.path.realpath(path)).is_relative_to(root) and path.is_file())


def facts(path: Path, name: str) -> dict[str, Any]:
    """What the editor wants to know of a file: its name, its size in bytes and its times in milliseconds."""
    stat = path.stat()
    created = getattr(stat, "st_birthtime", stat.st_ctime)
    return {"path": name, "size": stat.st_size, "modified": stat.st_mtime_ns // 1_000_000, "created": int(created * 1000)}


def entries(user: Path, name: str) -> list[dict[str, Any]] | None:
    """Files and folders directly in a folder, None when it is none. Raises BadName."""
    folder = inside(user, name)
    if not folder.is_dir():
        return [] if folder == Path(os.path.realpath(user)) else None
    found = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not Path(os.path.realpath(path)).is_relative_to(folder):
            continue
        below = (Path(name) / path.name).as_posix()
        if path.is_dir():
            found.append({"name": path.name, "path": below, "type": "directory"})
        elif path.is_file():
            known = facts(path, below)
            found.append({"name": path.name, "type": "file", **{key: known[key] for key in ("path", "size", "modified")}})
    return found


def _walk(root: Path, recurse: bool) -> Iterator[Path]:
    for folder, below, names in os.walk(root):
        below[:] = [name for name in below if recurse and not name.startswith(".")]
        yield from (Path(folder, name) for name in names if not name.startswith("."))
