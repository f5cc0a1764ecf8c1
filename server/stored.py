"""Files in the input, output and temp folders, by the names that a request uses."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from graph_engine import Folders
from server.confine import BadName, LeadsOut, inside, relative
from server.refusal import Refused, named
from server.writing import PART

__all__ = ["OWN", "find", "newest_first"]

OWN = ("input", "output", "temp")


def find(folders: Folders, kind: str, subfolder: str, name: str) -> Path | None:
    """The real path of a file, None when there is none. Raises Refused for a kind that is none and for a name or
    subfolder that leads out.
    """
    if kind not in OWN:
        raise Refused(400, f"type is one of {', '.join(OWN)}, not {kind[:40]!r}")
    try:
        below = relative(name)
    except BadName as error:
        raise named(error, leads_out=400) from error
    if not below.parts:
        raise Refused(400, "filename is missing")
    try:
        below = relative(subfolder) / below
        found = [path for place in folders.places(kind) if (path := inside(place, str(below))).is_file()]
    except LeadsOut as error:
        raise Refused(403, str(error)) from error
    except BadName as error:
        raise named(error) from error
    hidden = any(part.startswith(".") for part in below.parts) or below.suffix == PART
    return found[0] if found and not hidden else None


def newest_first(folders: Folders, kind: str) -> list[str]:
    """The names of all files of one of these folders, with `/` between folders."""
    dated = sorted(_dated(folders.places(kind)), reverse=True)
    return list(dict.fromkeys(name for _, name in dated))


def _dated(places: list[Path]) -> Iterator[tuple[float, str]]:
    for place in places:
        root = Path(os.path.realpath(place))
        for folder, below, names in os.walk(root):
            below[:] = [name for name in below if not name.startswith(".")]
            for name in names:
                path = Path(folder, name)
                if not name.startswith(".") and Path(os.path.realpath(path)).is_relative_to(root) and path.is_file():
                    yield path.stat().st_mtime, path.relative_to(root).as_posix()
