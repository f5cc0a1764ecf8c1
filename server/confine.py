"""From a name that somebody sent to a path that stays in its folder."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

__all__ = ["BadName", "LeadsOut", "inside", "relative"]

# devices of Windows, with any suffix; a name that one of our machines cannot hold is refused by all
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|clock\$|(com|lpt)[0-9¹²³]) *(\..*)?", re.IGNORECASE | re.DOTALL)
_DRIVE = re.compile(r"[A-Za-z]:")
_LONGEST_PART, _LONGEST = 255, 1024  # bytes, as most file systems have it; characters
_DECODINGS = 8


class BadName(ValueError):
    """The name cannot be that of a file."""


class LeadsOut(BadName):
    """The name would lead out of its folder."""


def relative(name: str) -> PurePosixPath:
    """The name, with `/` between folders, as a path below some folder; `.` for an empty one.

    Raises LeadsOut for a name that is absolute or climbs, also after decoding its percent signs or unifying its
    letters (Unicode NFKC) once more, and BadName for one that is no name on some system: control characters, half
    characters, names of devices, a final dot or space, or a part that is too long.
    """
    if not name.isprintable() and any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
        raise BadName("a name holds no control characters and no halves of characters")
    if len(name) > _LONGEST:
        raise BadName(f"a name holds at most {_LONGEST} characters, this one {len(name)}")
    for form in _forms(name):
        _stays(form)
    parts = [part for part in name.split("/") if part not in ("", ".")]
    for part in parts:
        if len(os.fsencode(part)) > _LONGEST_PART:
            raise BadName(f"a name holds at most {_LONGEST_PART} bytes between slashes")
        if part[-1] in ". " or _RESERVED.fullmatch(part):
            raise BadName(f"{part!r} is no name for a file on every system")
    return PurePosixPath(*parts)


def inside(root: Path, name: str) -> Path:
    """The real path of a name below `root`, which need not exist. Raises as `relative`, and LeadsOut when a symbolic
    link on the way leads out of `root`.
    """
    below = relative(name)
    real = Path(os.path.realpath(root))
    path = Path(os.path.realpath(real / below))
    if not path.is_relative_to(real):
        raise LeadsOut(f"{name!r} leads out of its folder")
    return path


def _forms(name: str) -> Iterator[str]:
    """The name and whatever further decoding would make of it, with and without unifying its letters on the way."""
    for unify in (str, partial(unicodedata.normalize, "NFKC")):
        form = unify(name)
        for _ in range(_DECODINGS):
            yield form
            if (after := unify(unquote(form))) == form:
                break
            form = after
        else:
            raise BadName("the name is encoded too often")


def _stays(name: str) -> None:
    if "\\" in name or "\0" in name:
        raise LeadsOut("a name holds no backslash and no zero")
    if name.startswith("/") or ".." in name.split("/") or any(_DRIVE.match(part) for part in name.split("/")):
        raise LeadsOut(f"{name!r} leads out of its folder")
