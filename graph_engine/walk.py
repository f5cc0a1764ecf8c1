"""Looks into values without knowing their libraries: finds tensors by what they can do, counts their bytes, exchanges them, sums values up.

A tensor is whatever has an `untyped_storage`; values are dataclasses, tuples, lists, dicts and sets of tensors and scalars.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

__all__ = ["Storages", "exchange", "is_tensor", "on_host", "storages", "summary", "tensors", "versions"]

Storages = dict[tuple[str, int], int]  # (place, address of the storage) -> bytes; place is "device" or "host"

_SMALL = (type(None), bool, int, float, complex)
_OBJECT = 16  # bytes counted for a scalar or an object that cannot be looked into


def is_tensor(value: Any) -> bool:
    return hasattr(type(value), "untyped_storage")


def on_host(tensor: Any) -> bool:
    """Whether a tensor lies in the host's memory rather than on an accelerator."""
    return bool(getattr(tensor.device, "type", "cpu") == "cpu")


def tensors(value: Any) -> Iterator[Any]:
    """Every tensor in a value, in a fixed order; one that is there twice comes twice."""
    for leaf in _leaves(value):
        if is_tensor(leaf):
            yield leaf


def storages(value: Any) -> tuple[Storages, int]:
    """The memory that the tensors of a value keep alive, each storage once, and an estimate of the bytes of all else in it."""
    found: Storages = {}
    other = 0
    for leaf in _leaves(value):
        if isinstance(leaf, _SMALL):
            other += _OBJECT
        elif isinstance(leaf, (str, bytes, bytearray)):
            other += _OBJECT + len(leaf)
        elif is_tensor(leaf):
            place, address, size = _storage(leaf)
            found[place, address] = size
        else:
            array = getattr(leaf, "nbytes", None)
            other += array if isinstance(array, int) else _OBJECT
    return found, other


def versions(value: Any) -> list[int]:
    """How often each tensor of a value has been written into; tensors that do not count (inference tensors) give -1."""
    found = []
    for tensor in tensors(value):
        try:
            found.append(int(tensor._version))
        except RuntimeError:
            found.append(-1)
    return found


def exchange(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same value with every tensor replaced by `change(tensor)`, called once for each; parts without a tensor are shared."""
    made: dict[int, Any] = {}

    def visit(part: Any) -> Any:
        if isinstance(part, (*_SMALL, str, bytes)):
            return part
        if is_tensor(part):
            if id(part) not in made:
                made[id(part)] = change(part)
            return made[id(part)]
        if dataclasses.is_dataclass(part) and not isinstance(part, type):
            return _with_fields(part, visit)
        if isinstance(part, tuple):
            items = [visit(item) for item in part]
            if all(new is old for new, old in zip(items, part, strict=True)):
                return part
            return type(part)(*items) if hasattr(part, "_fields") else tuple(items)
        if isinstance(part, list):
            return [visit(item) for item in part]
        if isinstance(part, dict):
            return {key: visit(item) for key, item in part.items()}
        return part

    return visit(value)


def summary(value: Any, limit: int = 120) -> str:
    """A value in a few words: types and shapes rather than contents."""
    text = _describe(value, 3)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, (int, float, str)):  # by far the most common, and not worth a stack
        yield value
        return
    stack = [value]
    seen: set[int] = set()
    while stack:
        part = stack.pop()
        if isinstance(part, (*_SMALL, str, bytes)) or is_tensor(part):
            yield part
            continue
        inner = _parts(part)
        if inner is None:
            yield part
        elif id(part) not in seen:
            seen.add(id(part))
            stack.extend(reversed(inner))


def _parts(part: Any) -> list[Any] | None:
    if isinstance(part, (tuple, list, set, frozenset)):
        return list(part)
    if isinstance(part, Mapping):
        return [item for pair in part.items() for item in pair]
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        return [getattr(part, field.name) for field in dataclasses.fields(part)]
    return None


def _storage(tensor: Any) -> tuple[str, int, int]:
    place = "host" if on_host(tensor) else "device"
    try:
        storage = tensor.untyped_storage()
        return place, storage.data_ptr(), storage.nbytes()
    except (NotImplementedError, RuntimeError):  # sparse and other tensors that have no single storage
        return place, id(tensor), tensor.numel() * tensor.element_size()


def _with_fields(value: Any, visit: Callable[[Any], Any]) -> Any:
    old = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    new = {name: visit(part) for name, part in old.items()}
    if all(new[name] is part for name, part in old.items()):
        return value
    changed = copy.copy(value)
    for name, part in new.items():
        object.__setattr__(changed, name, part)
    return changed


def _describe(value: Any, depth: int) -> str:
    if is_tensor(value):
        dtype = str(getattr(value, "dtype", "tensor")).removeprefix("torch.")
        return f"{dtype}[{', '.join(map(str, getattr(value, 'shape', ())))}]"
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:57] + "...")
    if isinstance(value, _SMALL):
        return repr(value)
    if depth == 0:
        return f"{type(value).__name__}(...)"
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        first = ", ".join(_describe(item, depth - 1) for item in value[:2])
        return f"[{first}{', ...' if len(value) > 2 else ''}] ({len(value)})"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        shown = [f"{field.name}={_describe(getattr(value, field.name), depth - 1)}" for field in dataclasses.fields(value)[:4]]
        return f"{type(value).__name__}({', '.join(shown)})"
    return type(value).__name__
