"""The model files of each kind: their names, what the disk says of them, and what they say of themselves."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graph_engine import Folders, NodeError, NodeSpec
from graph_engine import files as engine_files
from graph_engine.packages import package_file

__all__ = ["KINDS", "files", "metadata", "names", "shipped", "shipped_file"]

KINDS = tuple(kind for kind in engine_files.KINDS if kind not in ("input", "output", "temp", "latents", "trajectories"))
_LONGEST_HEADER = 100 << 20  # bytes, the limit of the safetensors format itself


def shipped(specs: Mapping[str, NodeSpec], kind: str) -> dict[str, str]:
    """The names of files of a kind that come with the node packages, with the references to them."""
    return {
        name: reference
        for spec in specs.values()
        for entry in spec.inputs
        if entry.folder == kind
        for name, reference in entry.embedded.items()
    }


def shipped_file(specs: Mapping[str, NodeSpec], kind: str, name: str) -> Path | None:
    """The file of a kind that comes with the node packages under this name; None when there is none."""
    reference = shipped(specs, kind).get(name)
    return None if reference is None else package_file(reference)


def names(specs: Mapping[str, NodeSpec], folders: Folders, kind: str) -> list[str]:
    """The names of all files of a kind, those that come with the node packages first."""
    return list(dict.fromkeys((*shipped(specs, kind), *folders.list(kind))))


def files(folders: Folders, kind: str) -> list[dict[str, Any]]:
    """The files of a kind in its folders: name, position of the folder, size in bytes, times in ms since the epoch."""
    places = folders.places(kind)
    found = []
    for name in folders.list(kind):
        index, path = next(((i, place / name) for i, place in enumerate(places) if (place / name).exists()), (None, None))
        if path is None:  # deleted a moment ago
            continue
        stat = path.stat()
        found.append(
            {
                "name": name,
                "pathIndex": index,
                "size": stat.st_size if path.is_file() else sum(part.stat().st_size for part in path.rglob("*") if part.is_file()),
                "modified": stat.st_mtime_ns // 1_000_000,
                "created": stat.st_ctime_ns // 1_000_000,
            }
        )
    return found


def metadata(specs: Mapping[str, NodeSpec], folders: Folders, kind: str, name: str) -> dict[str, Any]:
    """The `__metadata__` of a safetensors file, empty for a file without and for one of another format.

    Raises FileNotFoundError when there is no such file, and ValueError when its name leads out or its header is damaged.
    """
    try:
        path = folders.find(kind, name, shipped(specs, kind))
    except NodeError as error:
        raise ValueError(str(error)) from error
    if path is None:
        raise FileNotFoundError(f"there is no {name[:200]!r} in {kind}")
    return _header(path) if path.is_file() and path.suffix in (".safetensors", ".sft") else {}


def _header(path: Path) -> dict[str, Any]:
    # https://huggingface.co/docs/safetensors: the length of the header as u64, little end first, then the header as JSON
    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8 or (length := struct.unpack("<Q", start)[0]) > _LONGEST_HEADER:
            raise ValueError(f"{path.name} is not a safetensors file")
        text = file.read(length)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the header of {path.name} is damaged: {str(error)[:200]}") from error
    found = header.get("__metadata__") if isinstance(header, dict) else None
    return found if isinstance(found, dict) else {}
