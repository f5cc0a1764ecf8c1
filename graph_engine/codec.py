"""A value as plain JSON plus numbered tensors, and back. Nothing is unpickled and no module is imported to read one."""

from __future__ import annotations

import base64
import ctypes
import dataclasses
import enum
import hashlib
import json
import math
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from graph_engine.errors import GraphError
from graph_engine.walk import is_tensor, on_host

if TYPE_CHECKING:
    from graph_engine.device import Device

__all__ = ["NotPlain", "content_digest", "decode", "encode"]


_write = json.JSONEncoder(separators=(",", ":")).encode  # ASCII, so that lone surrogates pass


class NotPlain(GraphError):
    """The value holds something that has no plain form, or the form names a class that is not there (any more)."""


def encode(value: Any, belongs: frozenset[int] = frozenset()) -> tuple[str, list[Any]]:
    """The skeleton of a value as JSON text, and the tensors it refers to by number.

    `belongs` holds ids of tensors on the host that belong on the device. Raises NotPlain for anything but dataclasses, enums,
    containers, scalars and tensors.
    """
    found: list[Any] = []
    known: dict[int, int] = {}

    def place(tensor: Any) -> dict[str, Any]:
        if id(tensor) not in known:
            known[id(tensor)] = len(found)
            found.append(tensor)
        return {"$tensor": known[id(tensor)], "device": id(tensor) in belongs or not on_host(tensor)}

    return _write(_plain(value, place)), found


def decode(skeleton: str, tensors: Mapping[str, Any], to_device: Callable[[Any], Any]) -> Any:
    """The value again; tensors are looked up by their number as text, and those that were on the device go back there.

    Raises NotPlain when the text is damaged, or a class is not loaded or has other fields now.
    """
    try:
        return _value(json.loads(skeleton), tensors, to_device)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise NotPlain(f"not the form of a value: {error}") from error


def content_digest(value: Any, device: Device) -> bytes:
    """16 bytes that stand for the content of a value, tensors included. Raises NotPlain when it has no plain form."""

    def by_content(tensor: Any) -> dict[str, Any]:
        raw = hashlib.blake2b(_raw(tensor, device), digest_size=16).hexdigest()
        return {"$tensor": raw, "dtype": str(tensor.dtype), "shape": list(tensor.shape), "device": not on_host(tensor)}

    text = _write(_plain(value, by_content))
    return hashlib.blake2b(text.encode(), digest_size=16, person=b"content").digest()


def _raw(tensor: Any, device: Device) -> bytes:
    host = device.to_host(tensor).detach()
    if getattr(host, "is_complex", bool)():
        host = host.resolve_conj()
    host = host.resolve_neg().contiguous()
    return ctypes.string_at(host.data_ptr(), host.numel() * host.element_size())


def _plain(value: Any, place: Callable[[Any], dict[str, Any]]) -> Any:
    kind = type(value)
    if kind in (int, bool, str) or value is None:
        return value
    if kind is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if is_tensor(value):
        return place(value)
    if kind is list:
        return [_plain(item, place) for item in value]
    if kind is tuple:
        return {"$tuple": [_plain(item, place) for item in value]}
    if kind is dict:
        return {"$dict": [[_plain(key, place), _plain(item, place)] for key, item in value.items()]}
    if kind is bytes:
        return {"$bytes": base64.b64encode(value).decode()}
    if kind is frozenset:
        return {"$set": sorted((_plain(item, place) for item in value), key=json.dumps)}
    if isinstance(value, enum.Enum):
        return {"$enum": _name(kind), "name": value.name}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {"$named": _name(kind), "fields": [_plain(item, place) for item in value]}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _plain(getattr(value, field.name), place) for field in dataclasses.fields(value)}
        if vars(value).keys() - fields.keys() if hasattr(value, "__dict__") else False:
            raise NotPlain(f"{kind.__qualname__} carries attributes that are not fields")
        return {"$class": _name(kind), "fields": fields}
    raise NotPlain(f"{kind.__qualname__} has no plain form")


def _value(plain: Any, tensors: Mapping[str, Any], to_device: Callable[[Any], Any]) -> Any:
    if isinstance(plain, list):
        return [_value(item, tensors, to_device) for item in plain]
    if not isinstance(plain, dict):
        return plain

    def inner(items: Any) -> list[Any]:
        return [_value(item, tensors, to_device) for item in items]

    if "$tensor" in plain:
        tensor = tensors[str(plain["$tensor"])]
        return to_device(tensor) if plain["device"] else tensor
    if "$tuple" in plain:
        return tuple(inner(plain["$tuple"]))
    if "$dict" in plain:
        return dict(map(inner, plain["$dict"]))
    if "$float" in plain:
        return float(plain["$float"])
    if "$bytes" in plain:
        return base64.b64decode(plain["$bytes"])
    if "$set" in plain:
        return frozenset(inner(plain["$set"]))
    if "$enum" in plain:
        return _class(plain["$enum"], lambda found: issubclass(found, enum.Enum))[plain["name"]]
    if "$named" in plain:
        return _class(plain["$named"], lambda found: hasattr(found, "_fields"))(*inner(plain["fields"]))
    cls = _class(plain["$class"], dataclasses.is_dataclass)
    fields = {name: _value(item, tensors, to_device) for name, item in plain["fields"].items()}
    if fields.keys() != {field.name for field in dataclasses.fields(cls)}:
        raise NotPlain(f"{cls.__qualname__} has other fields now")
    made = object.__new__(cls)  # the value was checked when it was first made
    for name, item in fields.items():
        object.__setattr__(made, name, item)
    return made


def _name(cls: type) -> str:
    if "<locals>" in cls.__qualname__:
        raise NotPlain(f"{cls.__qualname__} is declared inside a function")
    return f"{cls.__module__}:{cls.__qualname__}"


def _class(name: str, fits: Callable[[type], bool]) -> Any:
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module)
    if found is None:
        raise NotPlain(f"{module} is not loaded")
    for part in path.split("."):
        found = getattr(found, part)
    if not isinstance(found, type) or not fits(found):
        raise NotPlain(f"{name} is not a class of values")
    return found
