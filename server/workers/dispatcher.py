"""What the server asks of its workers: run, stop, check, let go, report."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from graph_engine import Problem
from server.journal import Journal
from server.journal.recovery import Verdict
from server.runs import NewRun, Run
from server.workers.frames import command
from server.workers.line import Line
from server.workers.roles import Audience, Teller, WorkerOptions, WorkerState
from server.workers.seat import Seat, resident_bytes

__all__ = ["Dispatcher"]

_log = logging.getLogger(__name__)

_CHECK = 1.0  # seconds that a submission waits for what the classes say
_FRESH = 1.0  # seconds that a report of memory counts as new
_UNWIND = 3.0  # seconds that cancelled runs are given to end when the server stops


class Dispatcher:
    """One worker process for each device, one queue for all. Everything happens in the event loop's thread.

    With `requeue`, runs that the end of the server interrupts wait again instead of being marked as interrupted.
    """

    def __init__(
        self,
        journal: Journal,
        audience: Audience,
        teller: Callable[[Run], Teller],
        devices: Sequence[str],
        options: WorkerOptions,
        *,
        requeue: bool = False,
    ) -> None:
        if not devices:
            raise ValueError("devices: at least one is wanted")
        self._journal, self._requeue = journal, requeue
        self._line = Line(journal, audience, teller, devices, options, requeue=requeue)
        self._background: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Settle what a crash interrupted, and start the workers; the queue moves as soon as one is ready."""
        for run in self._journal.recover(Verdict(self._requeue)):
            fate = "waits again" if run.status == "pending" else "is marked as interrupted"
            _log.warning("run %s was running when the server stopped; it %s", run.id, fate)
        for seat in self._line.seats:
            seat.keeper.start()
        self._line.tell_queue()

    async def close(self, grace: float) -> None:
        """Start no more runs, give the running ones `grace` seconds, then park them; end the workers."""
        self._line.closed = True
        await self._line.flown(grace)
        for seat in self._line.seats:
            if seat.flight is not None:
                self._line.cancel(seat)
        await self._line.flown(_UNWIND)
        for seat in self._line.seats:
            if seat.flight is not None:
                self._line.park(seat)
        await asyncio.gather(*(seat.keeper.close() for seat in self._line.seats))
        for task in self._background:
            task.cancel()

    async def ready(self, timeout: float) -> bool:
        """Wait until every worker has been ready; False when that takes too long."""
        until = time.monotonic() + timeout
        while any(seat.state.state in ("starting", "dead") for seat in self._line.seats):
            if not await self._line.change(until - time.monotonic()):
                return False
        return True

    # what clients ask for

    def submit(self, new: NewRun) -> Run:
        """Queue a run, and start it if a worker is idle. Raises Duplicate for an id that is known."""
        with self._journal.batch():
            run = self._journal.submit(new)
            self._line.tell_queue()
            self._line.pump()
        return run

    async def check(self, document: Mapping[str, Any], targets: Collection[str] | None) -> list[Problem] | None:
        """Problems that only the node classes can find; None when no worker can say so in a short time."""
        able = [seat for seat in self._line.seats if seat.state.state in ("idle", "running")]
        if not able:
            return None
        seat = min(able, key=lambda seat: seat.state.state != "idle")
        wanted = None if targets is None else list(targets)
        answer = await self._line.questions.ask(seat.keeper, "check", _CHECK, document=document, wanted=wanted)
        return None if answer is None else [Problem.model_validate(each) for each in answer["problems"]]

    def cancel(self, id: str) -> bool:
        """Take a run out of the queue, or interrupt it when it runs; whether it was there."""
        if self._journal.remove_pending([id]):
            self._line.tell_queue()
            return True
        return self.interrupt(id)

    def interrupt(self, id: str | None) -> bool:
        """Ask the run of this id to stop if it runs, None for all that run; whether there was one. No other run is touched."""
        asked = [seat for seat in self._line.seats if seat.flight is not None and (id is None or seat.flight.run.id == id)]
        for seat in asked:
            self._line.cancel(seat)
        return bool(asked)

    def free(self, unload_models: bool, free_memory: bool) -> None:
        """Let the workers drop idle weights, or also what they remember of earlier runs, after what they run now."""
        if not (unload_models or free_memory):
            return
        for seat in self._line.seats:
            seat.send_soon(command("free", models=unload_models or free_memory, results=free_memory))
            seat.memory.clear()

    def memory(self) -> list[dict[str, Any]]:
        """Who holds what, worker by worker, as last reported; a newer report is asked for."""
        for seat in self._line.seats:
            if seat.state.state in ("idle", "running") and time.monotonic() - seat.reported >= _FRESH:
                seat.reported = time.monotonic()
                self._spawn(self._survey(seat))
        return [seat.view() for seat in self._line.seats]

    async def survey(self) -> list[dict[str, Any]]:
        """`memory`, with reports that are made now."""
        await asyncio.gather(*(self._survey(seat) for seat in self._line.seats if seat.state.state in ("idle", "running")))
        return [seat.view() for seat in self._line.seats]

    @property
    def workers(self) -> Sequence[WorkerState]:
        """The workers, as they are now."""
        for seat in self._line.seats:
            seat.state.resident = resident_bytes(seat.state.pid)
        return [seat.state for seat in self._line.seats]

    async def _survey(self, seat: Seat) -> None:
        answer = await self._line.questions.ask(seat.keeper, "report", _CHECK)
        if answer is not None:
            seat.reported = time.monotonic()
            seat.state.facts = answer["facts"]
            seat.state.residents = tuple((owner, size) for owner, size in answer["residents"])
            seat.state.used = sum(size for _, size in seat.state.residents)

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
