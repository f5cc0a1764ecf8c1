"""Where the files of a package are, found without importing it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

__all__ = ["package_file", "package_paths", "sources"]


def package_paths(name: str) -> list[Path]:
    """The folders of the package `name`, or the one file of a module; empty when there is none.

    Only the top package is looked up, because looking up `a.b` would import `a`.
    """
    top, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return []
    if spec is None:
        return []
    if spec.submodule_search_locations is None:
        return [Path(spec.origin)] if spec.origin and not rest and Path(spec.origin).is_file() else []
    folders = [Path(folder) for folder in spec.submodule_search_locations]
    found = [folder.joinpath(*rest) for folder in folders]
    return [path if path.is_dir() else path.with_suffix(".py") for path in found if path.is_dir() or path.with_suffix(".py").is_file()]


def package_file(reference: str) -> Path | None:
    """The file or folder that "package:relative/path" names, or None when it is not there."""
    package, _, relative = reference.partition(":")
    if not relative:
        return None
    candidates = (folder / relative for folder in package_paths(package) if folder.is_dir())
    return next((path for path in candidates if path.exists()), None)


def sources(name: str) -> Iterator[Path]:
    """Every Python source of the package or module `name`, and of the packages that contain it."""
    top, *rest = name.split(".")
    for depth in range(len(rest)):  # importing a.b.c runs a/__init__.py and a/b/__init__.py first
        for folder in package_paths(".".join((top, *rest[:depth]))):
            if (init := folder / "__init__.py").is_file():
                yield init
    for path in package_paths(name):
        if path.is_file():
            yield path
        else:
            yield from sorted(found for found in path.rglob("*.py") if "__pycache__" not in found.parts)
