"""The parts of a workflow document: a node as it was written, a link, and a value that exists only in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from graph_engine.errors import GraphError

__all__ = ["Constant", "Link", "NodeEntry"]


@dataclass(frozen=True, slots=True)
class Link:
    """An input that comes from an output of another node, by position or name; JSON `[id, output]`."""

    node: str
    output: int | str = 0

    def to_json(self) -> list[str | int]:
        return [self.node, self.output]


@dataclass(frozen=True, slots=True)
class Constant:
    """An input value that exists only in memory, with the content key it is known by; has no JSON form."""

    value: Any = field(repr=False)
    key: str


@dataclass(frozen=True, slots=True)
class NodeEntry:
    """One node of a document; an input is a Link, a Constant or a literal. `meta` is the rest of `_meta`."""

    class_type: str
    inputs: dict[str, Any] = field(default_factory=dict)
    title: str | None = None
    version: int | None = None  # None means the version that is installed
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What a person calls the node: its title, else its type."""
        return self.title or self.class_type

    def to_json(self) -> dict[str, Any]:
        meta = dict(self.meta)
        if self.title is not None:
            meta["title"] = self.title
        if self.version is not None:
            meta["version"] = self.version
        entry: dict[str, Any] = {
            "class_type": self.class_type,
            "inputs": {k: _write(v, k) for k, v in self.inputs.items()},
        }
        return {**entry, "_meta": meta} if meta else entry


def _write(value: Any, name: str) -> Any:
    if isinstance(value, Link):
        return value.to_json()
    if isinstance(value, Constant):
        raise GraphError(f"input {name}: a value that exists only in memory cannot be written to JSON")
    if isinstance(value, (list, tuple)):
        return {"__value__": list(value)}
    if isinstance(value, dict) and "__value__" in value:
        return {"__value__": value}
    return value
