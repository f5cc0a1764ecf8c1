"""Frames on the socket between the server and a worker: u32 length of the payload, u8 kind, payload."""

from __future__ import annotations

import json
import struct
from typing import Any

from graph_engine.events import Event, NodePreview, event_from_json

__all__ = ["COMMAND", "EVENT", "PREVIEW", "Splitter", "command", "frame", "pack", "read_event"]

COMMAND, EVENT, PREVIEW = 0, 1, 2  # JSON; an event as JSON; u32 length of a JSON header, the header, image bytes

_HEAD = struct.Struct(">IB")
_LENGTH = struct.Struct(">I")


def frame(kind: int, payload: bytes) -> bytes:
    return _HEAD.pack(len(payload), kind) + payload


def command(op: str, **fields: Any) -> bytes:
    """A frame that asks for something, or answers."""
    return frame(COMMAND, json.dumps({"op": op, **fields}).encode())


def pack(event: Event) -> bytes:
    """The frame of an event."""
    if isinstance(event, NodePreview):
        header = event.model_dump_json(exclude={"data"}).encode()
        return frame(PREVIEW, _LENGTH.pack(len(header)) + header + event.data)
    return frame(EVENT, event.model_dump_json().encode())


def read_event(kind: int, payload: bytes) -> Event:
    """The event of a frame of kind EVENT or PREVIEW."""
    if kind == EVENT:
        return event_from_json(payload)
    (length,) = _LENGTH.unpack_from(payload)
    begin = _LENGTH.size + length
    return NodePreview(**json.loads(payload[_LENGTH.size : begin]), data=payload[begin:])


class Splitter:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes | memoryview) -> list[tuple[int, bytes]]:
        """The frames that are complete now, as kind and payload."""
        rest, frames, at = self._rest, [], 0
        rest += data
        while len(rest) - at >= _HEAD.size:
            length, kind = _HEAD.unpack_from(rest, at)
            end = at + _HEAD.size + length
            if len(rest) < end:
                break
            frames.append((kind, bytes(rest[at + _HEAD.size : end])))
            at = end
        del rest[:at]
        return frames
