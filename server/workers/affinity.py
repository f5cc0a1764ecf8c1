"""Which worker a run suits best: the one that has lately seen most of what it consists of, and so holds its models and results."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["Memory", "traits"]

_REMEMBERED = 4000  # traits of a worker
_MODEL = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf")

Trait = tuple[str, ...]


def traits(document: Mapping[str, Any]) -> dict[Trait, float]:
    """What a workflow consists of, by how much it costs to get again: node types, nodes with these very literals, model files."""
    found: dict[Trait, float] = {}
    for node in document.values():
        if not isinstance(node, Mapping):
            continue
        kind, inputs = str(node.get("class_type")), node.get("inputs")
        found[(kind,)] = 1.0
        for name, value in inputs.items() if isinstance(inputs, Mapping) else ():
            if isinstance(value, str):
                found[(kind, str(name), value)] = 50.0 if value.lower().endswith(_MODEL) else 3.0
            elif isinstance(value, (int, float)):
                found[(kind, str(name), repr(value))] = 1.0
    return found


class Memory:
    """The traits of what a worker ran, the oldest forgotten first."""

    def __init__(self) -> None:
        self._seen: collections.OrderedDict[Trait, None] = collections.OrderedDict()

    def note(self, traits: Iterable[Trait]) -> None:
        for trait in traits:
            self._seen[trait] = None
            self._seen.move_to_end(trait)
        while len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)

    def clear(self) -> None:
        """The worker has let go of everything."""
        self._seen.clear()

    def suits(self, traits: Mapping[Trait, float]) -> float:
        """How much of a workflow it has seen."""
        return sum(weight for trait, weight in traits.items() if trait in self._seen)
