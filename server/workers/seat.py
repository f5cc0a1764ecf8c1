"""A worker's place: its state, its process, what it has lately run, and the run that it has now."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graph_engine.events import MemoryReport
from server.workers.affinity import Memory
from server.workers.flight import Flight
from server.workers.keeper import Keeper
from server.workers.roles import WorkerState

__all__ = ["Seat", "resident_bytes"]


@dataclass(slots=True)
class Seat:
    """Made before its keeper, who must know it."""

    state: WorkerState
    memory: Memory
    keeper: Keeper = field(init=False)
    flight: Flight | None = None
    reported: float = 0.0  # when the memory report was asked for, in seconds of the monotonic clock

    def send_soon(self, order: bytes) -> None:
        """Send when the event loop goes on, which is after the transaction that is open now."""
        asyncio.get_running_loop().call_soon(self.keeper.send, order)

    def report(self, event: MemoryReport) -> None:
        """Take in what the engine said at the end of a run."""
        self.state.budget, self.state.used = event.budget, event.used
        self.state.residents = tuple((each.owner, each.bytes) for each in event.residents)

    def view(self) -> dict[str, Any]:
        """The worker as JSON."""
        state = self.state
        place = state.facts.get("name", state.device)
        return {
            "name": state.name,
            "device": state.device,
            "state": state.state,
            "pid": state.pid,
            "run": state.run,
            "restarts": state.restarts,
            "resident_bytes": resident_bytes(state.pid),
            "budget_bytes": state.budget,
            "used_bytes": state.used,
            "facts": state.facts,
            "residents": [{"owner": owner, "place": place, "bytes": size} for owner, size in state.residents],
            "broken": list(state.broken),
            "error": state.error,
        }


def resident_bytes(pid: int | None) -> int | None:
    """The memory of a process; None when it is gone, or the system does not tell."""
    if pid is None:
        return None
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return None
