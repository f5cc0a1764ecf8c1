"""A node that saves a picture without any library for pictures."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any

from graph_engine.node import Node

if TYPE_CHECKING:
    from graph_engine.context import Context


def png(red: int) -> bytes:
    """One pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixel = zlib.compress(bytes([0, red, 0, 0]))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)) + chunk(b"IDAT", pixel) + chunk(b"IEND", b"")


class Pixel(Node, category="test", output=True):
    red: int = 0
    filename_prefix: str = "pixel"

    def run(self, ctx: Context) -> None:
        def write(file: Any) -> None:
            file.write(png(self.red))

        ctx.save(self.filename_prefix, ".png", write)
