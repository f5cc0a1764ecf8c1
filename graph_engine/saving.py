"""Numbered files in a folder: `prefix_00001_.png`. A name is taken and the file complete in one step, also between processes."""

from __future__ import annotations

import contextlib
import os
import re
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from graph_engine.errors import NodeError
from graph_engine.suggest import show

__all__ = ["save_numbered", "sweep"]


_PART = re.compile(r"\.(\d+)\.[0-9a-f]{32}\.part")


def save_numbered(folder: Path, prefix: str, suffix: str, write: Callable[[BinaryIO], None], substitutions: Mapping[str, object]) -> Path:
    """Write a new file `folder/prefix_<number>_<suffix>`, numbered after the highest there is; its path.

    The prefix may name folders below `folder`, and hold %year% %month% %day% %hour% %minute% %second% and the given substitutions.
    Raises NodeError when the prefix leads out of the folder.
    """
    below, stem = _split(_substitute(prefix, substitutions))
    root = Path(os.path.realpath(folder))
    place = Path(os.path.realpath(root / below))
    if not place.is_relative_to(root):
        raise NodeError(f"{show(prefix)} leads out of the folder {folder}")
    place.mkdir(parents=True, exist_ok=True)
    part = place / f".{os.getpid()}.{uuid.uuid4().hex}.part"
    try:
        with part.open("xb") as file:
            write(file)
        return _claim(part, place, stem, suffix)
    finally:
        part.unlink(missing_ok=True)


def sweep(folder: Path) -> int:
    """Delete the unfinished files below `folder` that processes left behind when they were killed; how many there were."""
    swept = 0
    for place, _, names in os.walk(folder):
        for name in names:
            if (match := _PART.fullmatch(name)) and not _alive(int(match[1])):
                with contextlib.suppress(FileNotFoundError):  # another process sweeps as well
                    os.unlink(os.path.join(place, name))
                    swept += 1
    return swept


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _claim(part: Path, place: Path, stem: str, suffix: str) -> Path:
    number = _highest(place, stem)
    while True:
        number += 1
        path = place / f"{stem}_{number:05}_{suffix}"
        try:
            os.link(part, path)  # fails when somebody took the number
        except FileExistsError:
            continue
        except OSError:  # a file system without links: take the name first, then put the file there
            try:
                path.open("xb").close()
            except FileExistsError:
                continue
            os.replace(part, path)
        return path


def _highest(place: Path, stem: str) -> int:
    pattern = re.compile(re.escape(stem) + r"_(\d+)_?(\..*)?", re.DOTALL)
    with os.scandir(place) as found:
        return max((int(match[1]) for entry in found if (match := pattern.fullmatch(entry.name))), default=0)


def _split(prefix: str) -> tuple[Path, str]:
    parts = prefix.replace("\\", "/").split("/")
    if "\0" in prefix or ".." in parts or parts[0] == "" or ":" in parts[0] or not parts[-1].strip(". "):
        raise NodeError(f"{show(prefix)} is not a prefix for file names, such as `pictures/cat`")
    return Path(*parts[:-1]), parts[-1]


def _substitute(prefix: str, substitutions: Mapping[str, object]) -> str:
    now = time.localtime()
    known = {
        "year": now.tm_year,
        "month": f"{now.tm_mon:02}",
        "day": f"{now.tm_mday:02}",
        "hour": f"{now.tm_hour:02}",
        "minute": f"{now.tm_min:02}",
        "second": f"{now.tm_sec:02}",
        **substitutions,
    }
    return re.sub(r"%(\w+)%", lambda match: str(known.get(match[1], match[0])), prefix)
