"""The graphs of the template browser: what they are called, the graphs in the editor's format, and pictures they made."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from graph_engine import NodeSpec
from graph_engine.editor.layout import to_editor

__all__ = ["Example", "Shelf", "examples", "folder", "graph", "index", "shelves", "thumbnail"]

_GROUP = "EXAMPLES"
_INDEX = Path("thumbnails", "index.json")  # not among the graphs


class Example(BaseModel):
    """One graph: its file's name, and what a person reads before opening it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str
    description: str
    tags: tuple[str, ...] = ()
    before_and_after: bool = False  # its picture shows an edit, and slides between both


class Shelf(BaseModel):
    """A category of the template browser."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    icon: str
    examples: tuple[Example, ...]


@cache
def folder() -> Path:
    """Where the graphs are: inside this package when it is installed, beside it in a clone."""
    here = Path(__file__).parent
    inside, beside = here / "workflows", here.parent / "workflows"
    return beside if (beside / _INDEX).is_file() and not inside.is_dir() else inside


@cache
def shelves() -> tuple[Shelf, ...]:
    """All graphs by category, in order; none when they were not installed."""
    file = folder() / _INDEX
    if not file.is_file():
        return ()
    return tuple(Shelf.model_validate(each) for each in json.loads(file.read_bytes()))


def examples() -> Iterator[Example]:
    """All graphs in order."""
    for shelf in shelves():
        yield from shelf.examples


def index(specs: Mapping[str, NodeSpec]) -> list[dict[str, Any]]:
    """The categories as the template browser reads them, with the graphs whose node types are all there."""
    made = []
    for shelf in shelves():
        usable = [_entry(each) for each in shelf.examples if _types(each.name) <= specs.keys()]
        if usable:
            made.append(
                {
                    "moduleName": "default",
                    "title": shelf.title,
                    "category": _GROUP,
                    "type": "image",
                    "icon": shelf.icon,
                    "templates": usable,
                }
            )
    return made


def graph(file: str, definitions: Callable[[], Mapping[str, Mapping[str, Any]]]) -> dict[str, Any] | None:
    """The graph `NAME.json` in the editor's format; None when there is none of this name."""
    name = file.removesuffix(".json")
    if name == file or name not in {each.name for each in examples()}:
        return None
    made: dict[str, Any] = to_editor(_document(name), definitions())
    return made


def thumbnail(file: str) -> Path | None:
    """The picture `NAME-1.webp`, or `NAME-2.webp` of the second half of an edit; None when there is none."""
    known = {f"{each.name}-{n}.webp" for each in examples() for n in ((1, 2) if each.before_and_after else (1,))}
    path = folder() / "thumbnails" / file
    return path if file in known and path.is_file() else None


def _entry(example: Example) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": example.name,
        "title": example.title,
        "description": example.description,
        "mediaType": "image",
        "mediaSubtype": "webp",
        "tags": list(example.tags),
        "openSource": True,
    }
    return {**entry, "thumbnailVariant": "compareSlider"} if example.before_and_after else entry


@cache
def _document(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder() / f"{name}.json").read_bytes())
    return found


@cache
def _types(name: str) -> frozenset[str]:
    return frozenset(node["class_type"] for node in _document(name).values())
