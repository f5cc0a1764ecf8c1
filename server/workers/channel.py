"""The server's end of a worker's socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from server.workers.frames import Splitter

__all__ = ["Channel"]

_GULP = 1 << 16  # bytes read at a time, so that the loop gets on to others in between


class Channel(asyncio.BufferedProtocol):
    """Hands on all frames of one gulp together; `lost` is done when the worker has hung up."""

    def __init__(self, hear: Callable[[list[tuple[int, bytes]]], None]) -> None:
        self._hear = hear
        self._buffer = memoryview(bytearray(_GULP))
        self._splitter = Splitter()
        self._transport: asyncio.WriteTransport | None = None
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def send(self, *frames: bytes) -> None:
        """Send frames; to a worker that has just died they are lost, as it is."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(frames))

    def close(self) -> None:
        """Hang up, which ends the worker."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's is one, without being a subclass

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if frames := self._splitter.feed(self._buffer[:nbytes]):
            self._hear(frames)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)
