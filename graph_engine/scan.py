"""The files below a folder that are of one kind, and whether that is still true."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Scan", "scan"]

_WEIGHTS = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin")
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
_SUFFIXES = {"input": _PICTURES, "output": _PICTURES, "temp": _PICTURES, "latents": (".latent",), "trajectories": (".trajectory",)}
# a checkpoint folder says which parts it has, a folder of one part how that part is built
_MARKERS = {"checkpoints": "model_index.json", "diffusers": "model_index.json", "loras": "adapter_config.json"}
_TICK = 2_000_000_000  # ns; the coarsest clock of a file system in use, that of FAT


@dataclass(frozen=True, slots=True)
class Scan:
    """Names of files, with `/` between folders, and the folders they were found in with their times of change."""

    names: tuple[str, ...]
    folders: tuple[tuple[str, int], ...]  # path, mtime in ns; -1 when it could not be read
    settled: bool  # whether a change since would have to show in a time

    def holds(self) -> bool:
        """Whether no file has come or gone since; sees folders only, so that it costs little however many files
        there are.
        """
        return self.settled and all(_changed(folder) == when for folder, when in self.folders)


def scan(place: Path, kind: str) -> Scan:
    """The names of all files of a kind below a folder, sorted without regard to case; for models also folders in the
    diffusers layout. Hidden files, and links that lead out, are left out.
    """
    now = time.time_ns()
    root = os.path.realpath(place)
    pictures = kind in _SUFFIXES
    suffixes, marker = _SUFFIXES.get(kind, _WEIGHTS), _MARKERS.get(kind, "config.json")
    found: list[str] = []
    folders = [(root, _changed(root))]
    for folder, below, files in os.walk(root):
        inside = os.path.relpath(folder, root)
        if not pictures and inside != "." and marker in files:
            found.append(inside.replace(os.sep, "/"))
            below.clear()
            continue
        below[:] = [name for name in below if not name.startswith(".")]
        folders += [(path, _changed(path)) for path in (os.path.join(folder, name) for name in below)]
        for name in files:
            path = os.path.join(folder, name)
            if name.startswith(".") or not name.lower().endswith(suffixes):
                continue
            if os.path.islink(path) and not Path(os.path.realpath(path)).is_relative_to(root):
                continue
            found.append(os.path.relpath(path, root).replace(os.sep, "/"))
    settled = all(when < now - _TICK for _, when in folders)
    return Scan(tuple(sorted(found, key=lambda name: (name.casefold(), name))), tuple(folders), settled)


def _changed(folder: str) -> int:
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return -1
