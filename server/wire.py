"""The WebSocket on the wire: frames that are sent in one go of the event loop leave in one piece."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

__all__ = ["GatheringProtocol"]


class GatheringProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket with far fewer calls of the system, each of which costs more than making the message that it sends."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Put the gathering transport in between."""
        super().connection_made(cast("asyncio.Transport", Gathering(cast("asyncio.Transport", transport))))


class Gathering:
    """A transport that writes when the event loop comes round, or when it is closed."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._waiting: list[bytes] = []
        self._loop = asyncio.get_running_loop()

    def write(self, data: bytes) -> None:
        """Send soon, after what was written before."""
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting.append(data)

    def close(self) -> None:
        """Send what waits, then close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._waiting:
            data, self._waiting = b"".join(self._waiting), []
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
