"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

__all__ = ["PART", "place", "staged", "write"]

PART = ".part"  # the suffix of what is still being written; such files are never listed nor served


@contextmanager
def staged(folder: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A file of a passing name in the folder, which is made if it is missing; gone afterwards unless it was placed."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{uuid.uuid4().hex}{PART}"
    try:
        with part.open("xb") as file:
            yield file, part
    finally:
        part.unlink(missing_ok=True)


def place(part: Path, path: Path, *, overwrite: bool) -> None:
    """Give a written file its name in one step. Raises FileExistsError when the name is taken, unless `overwrite`."""
    if overwrite:
        os.replace(part, path)
        return
    try:
        os.link(part, path)
    except (FileExistsError, FileNotFoundError):
        raise
    except OSError:  # a file system without links: take the name first, then put the file there
        path.open("xb").close()
        os.replace(part, path)


def write(path: Path, data: bytes, *, overwrite: bool = True) -> None:
    """Write a whole file, with its folder. Raises FileExistsError when there is one, unless `overwrite`."""
    with staged(path.parent) as (file, part):
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        place(part, path, overwrite=overwrite)
