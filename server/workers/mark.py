"""What a worker is doing, in memory that it shares with the server: there to be read however suddenly it dies."""

from __future__ import annotations

import json
import mmap
import os
import struct
import tempfile

__all__ = ["SIZE", "Mark", "shared"]

SIZE = 1 << 14
_LENGTH = struct.Struct(">I")


def shared() -> int:
    """A descriptor of memory for a Mark, to be inherited by the worker."""
    with tempfile.TemporaryFile() as file:
        os.ftruncate(file.fileno(), SIZE)
        return os.dup(file.fileno())


class Mark:
    """Which run was begun, and which of its nodes is at work, with the node that it was expanded from; empty where there is none."""

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, SIZE)

    def set(self, run: str, node: str = "", parent: str = "") -> None:
        text = json.dumps([run, node, parent]).encode()
        if len(text) > SIZE - _LENGTH.size:  # a name beyond all measure is not worth more memory
            text = json.dumps([run[:1000], "", ""]).encode()
        _LENGTH.pack_into(self._memory, 0, 0)  # while the text changes there is none
        self._memory[_LENGTH.size : _LENGTH.size + len(text)] = text
        _LENGTH.pack_into(self._memory, 0, len(text))

    def read(self) -> tuple[str, str, str]:
        """Run, node and parent."""
        (length,) = _LENGTH.unpack_from(self._memory, 0)
        if not length:
            return "", "", ""
        run, node, parent = json.loads(self._memory[_LENGTH.size : _LENGTH.size + length])
        return run, node, parent

    def close(self) -> None:
        self._memory.close()
