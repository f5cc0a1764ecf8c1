"""What every installed node declares, without importing one of them: exported once by another process and kept on
disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from graph_engine.errors import GraphError
from graph_engine.packages import sources
from graph_engine.registry import Broken, Registry, node_packages
from graph_engine.spec import NodeSpec

__all__ = ["Catalogue", "cache_home"]

_FORMAT = 1
_log = logging.getLogger(__name__)


class Catalogue:
    """Node declarations by type; `broken` names the packages that could not be read."""

    def __init__(self, specs: Mapping[str, NodeSpec], broken: Iterable[Broken] = ()) -> None:
        self.specs: Mapping[str, NodeSpec] = MappingProxyType(dict(specs))
        self.broken = tuple(broken)

    @classmethod
    def of(cls, registry: Registry) -> Catalogue:
        """The declarations of classes that are loaded anyway."""
        return cls(registry.specs, registry.broken)

    @classmethod
    def load(cls, cache_dir: str | Path | None = None) -> Catalogue:
        """What was exported earlier if no source and no version has changed since, else a new export by another
        process.

        Raises GraphError when that process dies.
        """
        place = Path(cache_dir) if cache_dir is not None else cache_home()
        file = place / f"catalogue-{hashlib.blake2b(sys.prefix.encode(), digest_size=6).hexdigest()}.json"
        now = _state()
        kept = _read(file)
        if kept is not None and kept.state == now and _stamps(kept.loaded) == kept.loaded:
            return kept.catalogue()
        text = _export_elsewhere()
        made = _Export.model_validate_json(text).model_copy(update={"state": now})
        try:
            _replace(file, made.model_dump_json(exclude_defaults=True))
        except OSError as error:
            _log.warning("the node catalogue cannot be kept in %s, so the next start is slow again: %s", place, error)
        return made.catalogue()


def cache_home() -> Path:
    """Where caches go when nobody says: `$LATENTGRAPH_CACHE`, else `latentgraph` in the user's cache folder."""
    if own := os.environ.get("LATENTGRAPH_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "latentgraph"


Stamps = dict[str, tuple[int, int]]  # path -> size, mtime_ns


class _Export(BaseModel):
    """The file on disk: the declarations, and the state of everything they were made from."""

    model_config = ConfigDict(frozen=True)

    format: int = 0
    state: dict[str, str | tuple[str, ...] | Stamps] = {}
    loaded: Stamps = {}  # further sources that the node packages import, such as tables of choices
    specs: tuple[NodeSpec, ...] = ()
    broken: tuple[tuple[str, str, str], ...] = ()

    def catalogue(self) -> Catalogue:
        return Catalogue({spec.type: spec for spec in self.specs}, (Broken(*each) for each in self.broken))


def _state() -> dict[str, str | tuple[str, ...] | Stamps]:
    """Versions and stamps of the node packages and of this one, found without importing them."""
    points = node_packages()
    named = tuple(f"{p.name} = {p.value} {p.dist.name if p.dist else ''} {p.dist.version if p.dist else ''}" for p in points)
    files = [path for package in (__package__, *(point.module for point in points)) for path in sources(package)]
    return {"python": sys.version, "packages": named, "sources": _stamps(str(path) for path in files)}


def _stamps(paths: Iterable[str]) -> Stamps:
    found = {}
    for path in paths:
        with contextlib.suppress(OSError):  # one that is gone has no stamp, which is a change as well
            stat = os.stat(path)
            found[path] = (stat.st_size, stat.st_mtime_ns)
    return found


def _read(file: Path) -> _Export | None:
    try:
        text = file.read_bytes()
        found = json.loads(text)
        return _Export.model_validate(found) if isinstance(found, dict) and found.get("format") == _FORMAT else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, ValidationError) as error:
        _log.info("the node catalogue %s is made anew: %s", file, error)
        return None


def _replace(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(prefix=f".{file.stem}-", dir=file.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(text)
        os.replace(beside, file)
    except BaseException:
        os.unlink(beside)
        raise


def _export_elsewhere() -> bytes:
    with tempfile.TemporaryDirectory(prefix="latentgraph-") as folder:
        out = Path(folder) / "catalogue.json"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        command = [sys.executable, "-P", "-m", __name__, str(out)]  # -P: the same path as here, not the current folder
        done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL)
        if done.returncode != 0 or not out.is_file():
            said = "\n".join(done.stderr.strip().splitlines()[-15:])
            raise GraphError(f"the node packages could not be read (exit code {done.returncode}):\n{said}")
        return out.read_bytes()


def _export(out: Path) -> None:
    """Import the node packages and write what they declare; runs in the other process."""
    registry = Registry.discover()
    libraries = tuple(sysconfig.get_paths()[kind] + os.sep for kind in ("stdlib", "platstdlib", "purelib", "platlib"))
    files = {str(getattr(module, "__file__", None)) for module in list(sys.modules.values())}
    loaded = _stamps(sorted(file for file in files if file.endswith(".py") and not file.startswith(libraries)))
    broken: list[tuple[str, str, str]] = [(each.name, each.error, each.traceback) for each in registry.broken]
    made: dict[str, Any] = {
        "format": _FORMAT,
        "loaded": loaded,
        "specs": tuple(registry.specs.values()),
        "broken": tuple(broken),
    }
    out.write_text(_Export(**made).model_dump_json(exclude_defaults=True), encoding="utf-8")


if __name__ == "__main__":
    _export(Path(sys.argv[1]))
