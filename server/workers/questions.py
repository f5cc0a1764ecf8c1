"""Questions to a worker that it answers while it computes."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from server.workers.frames import command
from server.workers.keeper import Keeper

__all__ = ["Questions"]


class Questions:
    """Sends a question and waits for its answer, but not for long."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self._open: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def ask(self, keeper: Keeper, op: str, timeout: float, **fields: Any) -> dict[str, Any] | None:
        """The answer; None when it does not come in time, or the question itself failed over there."""
        id = next(self._ids)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._open[id] = answer
        keeper.send(command(op, id=id, **fields))
        try:
            given = await asyncio.wait_for(answer, timeout)
        except TimeoutError:
            return None
        finally:
            del self._open[id]
        return None if "error" in given else given

    def answered(self, answer: dict[str, Any]) -> None:
        waiting = self._open.get(answer["id"])
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)
