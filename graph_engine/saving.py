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
_IN_BATCH = "%batch_num%"  # tells the files of one batch apart, which count on all the same
_MOST = 1000  # stems of a folder, and folders, that are remembered
_numbers: dict[Path, tuple[int, dict[str, int]]] = {}  # by folder: when it changed last, and the highest number of each stem then


def save_numbered(folder: Path, prefix: str, suffix: str, write: Callable[[BinaryIO], None], substitutions: Mapping[str, object]) -> Path:
    """Write a new file `folder/prefix_<number>_<suffix>`, numbered after the highest there is; its path.

    The prefix may name folders below `folder`, and hold %year% %month% %day% %hour% %minute% %second% and the given substitutions;
    files that differ in %batch_num% only are numbered together, as ComfyUI does.
    Raises NodeError when the prefix leads out of the folder.
    """
    below, stem = _split(_substitute(prefix, substitutions))
    counted = _split(_substitute(prefix, {**substitutions, "batch_num": _IN_BATCH}))[1]
    root = Path(os.path.realpath(folder))
    place = Path(os.path.realpath(root / below))
    if not place.is_relative_to(root):
        raise NodeError(f"{show(prefix)} leads out of the folder {folder}")
    place.mkdir(parents=True, exist_ok=True)
    part = place / f".{os.getpid()}.{uuid.uuid4().hex}.part"
    number = _last(place, counted)  # before the folder changes
    try:
        with part.open("xb") as file:
            write(file)
        number, path = _claim(part, place, stem, suffix, number)
    finally:
        part.unlink(missing_ok=True)
    _remember(place, counted, number)
    return path


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


def _claim(part: Path, place: Path, stem: str, suffix: str, number: int) -> tuple[int, Path]:
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
        return number, path


def _last(place: Path, stem: str) -> int:
    """The highest number there is. A folder that nothing changed since this process wrote there is not read again: it may be large.

    When others write at the same moment it may be too low; then the name is taken, and the next one is tried.
    """
    changed, stems = _numbers.get(place, (0, {}))
    if place.stat().st_mtime_ns != changed:
        _numbers.pop(place, None)
    elif stem in stems:
        return stems[stem]
    return _highest(place, stem)


def _remember(place: Path, stem: str, number: int) -> None:
    stems = _numbers.get(place, (0, {}))[1]
    if len(stems) >= _MOST or len(_numbers) >= _MOST:
        _numbers.clear()
        stems = {}
    _numbers[place] = (place.stat().st_mtime_ns, stems | {stem: number})


def _highest(place: Path, stem: str) -> int:
    pattern = re.compile(re.escape(stem).replace(_IN_BATCH, r"\d+") + r"_(\d+)_?(\..*)?", re.DOTALL)
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
