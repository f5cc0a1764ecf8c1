"""Folders of model files and pictures by kind: what there is, and the one safe way from a name to a path."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from graph_engine.errors import NodeError
from graph_engine.packages import package_file
from graph_engine.scan import Scan, scan
from graph_engine.spec import InputSpec
from graph_engine.suggest import did_you_mean, show

__all__ = ["KINDS", "Folders"]

_OWN = ("input", "output", "temp")  # these lie beside `models`, and a name may choose between them: "a.png [output]"
# kinds whose folder lies beside `models`, and which it is
_BESIDE = {**{kind: kind for kind in _OWN}, "latents": "input", "trajectories": "input"}
_ALIASES = {"clip": "text_encoders", "unet": "diffusion_models", "t2i_adapter": "controlnet", "ip_adapter": "ipadapter"}

KINDS: tuple[str, ...] = (
    "checkpoints",
    "loras",
    "vae",
    "vae_approx",
    "text_encoders",
    "diffusion_models",
    "diffusers",
    "controlnet",
    "embeddings",
    "ipadapter",
    "clip_vision",
    "style_models",
    "gligen",
    "upscale_models",
    "hypernetworks",
    "concepts",
    "latents",
    "trajectories",
    *_OWN,
)


class Folders:
    """Where files of each kind are looked for: `base/models/<kind>`, `base/input`, `base/output`, `base/temp`, and the `extra` ones.

    Extra folders come after `base/models/…`, but before `base/output` and its like, so that they are where new files go.
    """

    def __init__(self, base: str | Path, extra: Mapping[str, Sequence[str | Path]] | None = None) -> None:
        self.base = Path(base)
        self._extra = {_ALIASES.get(kind, kind): [Path(path) for path in paths] for kind, paths in (extra or {}).items()}
        self._scans: dict[tuple[str, Path], Scan] = {}

    def places(self, kind: str) -> list[Path]:
        """The folders of one kind, the first being where new files go. Raises NodeError for a kind that is no plain
        name.
        """
        kind = _ALIASES.get(kind, kind)
        if not re.fullmatch(r"[A-Za-z0-9_-]+", kind):
            raise NodeError(f"{show(kind)} is not a kind of folder; kinds are {', '.join(KINDS)}")
        own = self.base / _BESIDE[kind] if kind in _BESIDE else self.base / "models" / kind
        extra = self._extra.get(kind, ())
        return [*extra, own] if kind in _OWN else [own, *extra]

    def list(self, kind: str) -> tuple[str, ...]:
        """The names of all files of one kind, with `/` between folders; for models also folders in the diffusers
        layout. Folders are read again only when they have changed.
        """
        found = tuple([self._names(_ALIASES.get(kind, kind), place) for place in self.places(kind)])
        if len(found) == 1:
            return found[0]
        return tuple(dict.fromkeys(name for names in found for name in names))

    def _names(self, kind: str, place: Path) -> tuple[str, ...]:
        known = self._scans.get((kind, place))
        if known is None or not known.holds():
            known = self._scans[kind, place] = scan(place, kind)
        return known.names

    def choices(self, spec: InputSpec) -> tuple[Any, ...]:
        """What an input offers: its own choices, or for a file the embedded names and then those in its folders."""
        if spec.folder is None:
            return spec.choices or ()
        return tuple(dict.fromkeys((*spec.embedded, *self.list(spec.folder))))

    def resolve(self, kind: str, name: str, embedded: Mapping[str, str] | None = None) -> Path:
        """The path of a file by name, which never leaves the folders of its kind.

        `embedded` maps names that ship with a package to "package:relative/path" and goes first. The name of an input may
        end in ` [output]`, ` [temp]` or ` [input]`. Raises NodeError when the name leads out, or there is no such file.
        """
        if (path := self.find(kind, name, embedded)) is not None:
            return path
        hint = did_you_mean(name, (*(embedded or ()), *self.list(kind)))
        raise NodeError(f"there is no {show(name)} in {self.places(kind)[0]}" + (f"; {hint}" if hint else ""))

    def find(self, kind: str, name: str, embedded: Mapping[str, str] | None = None) -> Path | None:
        """As `resolve`, but None when there is no such file. Raises NodeError when the name leads out."""
        if embedded and name in embedded:
            if (path := package_file(embedded[name])) is None:
                raise NodeError(f"{name!r} should ship as {embedded[name]}, but that is not installed")
            return path
        kind = _ALIASES.get(kind, kind)
        if kind in _BESIDE and (marked := re.fullmatch(r"(.*\S) \[(input|output|temp)\]", name, re.DOTALL)):
            name, kind = marked[1], marked[2]
        relative = _relative(name, kind)
        for place in self.places(kind):
            root = Path(os.path.realpath(place))
            path = Path(os.path.realpath(root / relative))
            if not path.is_relative_to(root):
                raise NodeError(f"{show(name)} leads out of the folder {place}")
            if path != root and path.exists():
                return path
        return None


def _relative(name: str, kind: str) -> PurePosixPath:
    """The name as a relative path. Raises NodeError for one that is empty, absolute, or climbs."""
    parts = name.replace("\\", "/").split("/")
    bad = not name or "\0" in name or ".." in parts or parts[0] in ("", "~") or re.match(r"[A-Za-z]:", name) is not None
    if bad or not PurePosixPath(*parts).parts:
        raise NodeError(f"{show(name)} is not the name of a file in {kind}")
    try:
        too_long = any(len(os.fsencode(part)) > 255 for part in parts)
    except UnicodeEncodeError:
        too_long = True  # half of a character has no file name either
    if too_long or len(name) > 4000:
        raise NodeError(f"{show(name)} cannot be the name of a file")
    return PurePosixPath(*parts)
