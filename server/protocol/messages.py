"""What is told to a client, before it is put on a wire: messages as JSON text, and previews as pictures."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import PydanticSerializationError, to_json

__all__ = ["Message", "Preview", "encode", "framed"]


@dataclass(frozen=True, slots=True)
class Message:
    """A text message. Those to `keep` are changes of state: they are journalled and can be told again, the others only pass by."""

    type: str
    data: dict[str, Any]
    keep: bool = True


@dataclass(frozen=True, slots=True)
class Preview:
    """A picture of a node at work. The editor shows it at `display_node`; `parent` is the node that `node` was expanded from, if any."""

    run: str
    node: str
    display_node: str
    parent: str | None
    real: str
    media: str
    data: bytes = field(repr=False)


def encode(value: Any) -> str:
    """JSON as every browser reads it: NaN and infinities are null. Never fails on what JSON text or a node's `ctx.show` can hold."""
    try:
        return to_json(value, inf_nan_mode="null", serialize_unknown=True).decode()
    except (PydanticSerializationError, UnicodeError, ValueError):  # a lone surrogate, or bytes that are no text
        return json.dumps(_plain(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def framed(type: str, data: str, seq: int | None = None) -> str:
    """One text message from data that is JSON already; `seq` is its number in the journal."""
    number = "" if seq is None else f',"seq":{seq}'
    return f'{{"type":{json.dumps(type)},"data":{data}{number}}}'


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
