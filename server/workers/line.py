"""The line from the queue through the workers into the history, and what is told on the way."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import Any

from graph_engine.events import Event, MemoryReport, RunDone
from server.journal import Journal
from server.protocol.messages import Message, Preview
from server.runs import Run, Status
from server.workers.affinity import Memory, traits
from server.workers.flight import Flight
from server.workers.frames import COMMAND, command, frame, read_event
from server.workers.keeper import Keeper
from server.workers.questions import Questions
from server.workers.roles import Audience, Teller, WorkerOptions, WorkerState
from server.workers.seat import Seat

__all__ = ["Line"]

_log = logging.getLogger(__name__)

_ATTEMPTS = 3  # workers that may die at the moment when they are given a run
_STATUS: dict[str, Status] = {"success": "success", "error": "error", "cancelled": "interrupted"}


class Line:
    """Starts what waits on workers that are idle, hears them, and ends what they end, however it comes; when `closed` it starts no more."""

    def __init__(
        self,
        journal: Journal,
        audience: Audience,
        teller: Callable[[Run], Teller],
        devices: Sequence[str],
        options: WorkerOptions,
        *,
        requeue: bool,
    ) -> None:
        self._journal, self._audience, self._teller, self._requeue = journal, audience, teller, requeue
        inherited = () if journal.lock is None else (journal.lock,)
        self.seats: list[Seat] = []
        for index, device in enumerate(devices):
            seat = Seat(WorkerState(device if devices.count(device) == 1 else f"{device}#{index}", device), Memory())
            seat.keeper = Keeper(
                seat.state,
                index,
                options,
                inherited,
                lambda frames, seat=seat: self._hear(seat, frames),  # type: ignore[misc]
                lambda why, tail, doing, seat=seat: self._died(seat, why, tail, doing),  # type: ignore[misc]
            )
            self.seats.append(seat)
        self.questions = Questions()
        self.closed = False
        self._changed = asyncio.Event()

    def pump(self) -> None:
        """Start what can be started."""
        while not self.closed and (run := self._journal.next_pending()) is not None:
            idle = [seat for seat in self.seats if seat.state.state == "idle"]
            if not idle:
                return
            self._begin(self._suited(run, idle), run)

    def park(self, seat: Seat) -> None:
        """Give up on a run whose node does not end; its worker is about to be ended."""
        flight = seat.flight
        assert flight is not None
        with self._journal.batch():
            self._audience.send(flight.run.client, flight.run.id, flight.stopped())
            self._end(seat, flight, "interrupted")

    def cancel(self, seat: Seat) -> None:
        """Ask the run that this worker has to stop."""
        assert seat.flight is not None
        seat.send_soon(command("cancel", run=seat.flight.run.id))  # never before the run itself

    def tell_queue(self) -> None:
        """Say how many runs wait or run."""
        self._audience.queue_changed(sum(self._journal.counts()))

    async def flown(self, seconds: float) -> None:
        """Wait until nothing runs, but no longer than this."""
        until = time.monotonic() + seconds
        while any(seat.flight is not None for seat in self.seats):
            if not await self.change(until - time.monotonic()):
                return

    async def change(self, seconds: float) -> bool:
        """Wait until something may have changed; False when the time is up."""
        self._changed.clear()
        try:
            await asyncio.wait_for(self._changed.wait(), max(seconds, 0))
        except TimeoutError:
            return False
        return True

    def _hear(self, seat: Seat, frames: Sequence[tuple[int, bytes]]) -> None:
        """Everything that was read at once is one transaction; nothing has left before it is committed."""
        try:
            with self._journal.batch():
                told: list[Message | Preview] = []
                for kind, payload in frames:
                    if kind == COMMAND:
                        self._flush(seat, told)
                        self._answer(seat, json.loads(payload))
                    else:
                        self._event(seat, read_event(kind, payload), told)
                self._flush(seat, told)
        except sqlite3.Error:
            _log.exception("the journal cannot be written; what happened now is lost when the server stops")

    def _event(self, seat: Seat, event: Event, told: list[Message | Preview]) -> None:
        flight = seat.flight
        if isinstance(event, MemoryReport):
            seat.report(event)
        if flight is None or event.run != flight.run.id:
            return  # of a run that was given up on
        told += flight.tell(event)
        if isinstance(event, RunDone):
            self._flush(seat, told)
            self._end(seat, flight, _STATUS[event.status])

    def _answer(self, seat: Seat, answer: dict[str, Any]) -> None:
        op, state = answer["op"], seat.state
        if op == "answer":
            self.questions.answered(answer)
        elif op == "hello":
            state.facts, state.budget, state.broken = answer["facts"], answer["budget"], tuple(answer["broken"])
            state.state = "idle"
            for each in state.broken:
                _log.warning("worker %s could not load %s", state.name, each)
            _log.info("worker %s is ready: process %d, %d node types", state.name, answer["pid"], answer["nodes"])
            self.pump()
            self._signal()
        elif op == "unfit":
            _log.error("worker %s cannot work: %s", state.name, answer["message"])
        elif op == "broken" and seat.flight is not None and answer["run"] == seat.flight.run.id:
            self._abort(seat, answer["exception"], answer["message"], answer["traceback"])

    def _died(self, seat: Seat, why: str, tail: list[str], doing: tuple[str, str, str]) -> None:
        seat.memory.clear()
        run, node, parent = doing
        if seat.flight is not None:
            try:
                with self._journal.batch():
                    if run == seat.flight.run.id or seat.flight.run.attempts >= _ATTEMPTS:
                        self._abort(seat, "WorkerDied", why, [f"{line}\n" for line in tail], node, parent)
                    else:  # it died before it had begun this one
                        self._journal.requeue(seat.flight.run.id)
                        seat.flight, seat.state.run = None, None
                        self.tell_queue()
                        self.pump()
            except sqlite3.Error:
                _log.exception("the journal cannot be written")
        self._signal()

    def _suited(self, run: Run, idle: list[Seat]) -> Seat:
        if len(self.seats) == 1:
            return idle[0]
        wanted = traits(run.document)
        seat = max(idle, key=lambda seat: seat.memory.suits(wanted))  # of equals the first
        seat.memory.note(wanted)
        return seat

    def _begin(self, seat: Seat, run: Run) -> None:
        run = self._journal.start(run.id, seat.state.name)
        seat.flight = Flight(run, self._teller(run))
        seat.state.state, seat.state.run = "running", run.id
        self.tell_queue()
        previews = "true" if run.client else "false"
        order = (
            f'{{"op":"run","run":{json.dumps(run.id)},"previews":{previews},"wanted":{run.text("targets")},'
            f'"extra":{run.text("extra")},"document":{run.text("document")}}}'
        )
        seat.send_soon(frame(COMMAND, order.encode()))

    def _end(self, seat: Seat, flight: Flight, status: Status) -> None:
        """The story is told; write the history, then say that the run is over, and go on."""
        run, teller = flight.run, flight.teller
        seat.flight, seat.state.run = None, None
        if seat.state.state == "running":
            seat.state.state = "idle"
            seat.keeper.proved()
        if status == "interrupted" and self.closed and self._requeue:
            self._journal.requeue(run.id)
        else:
            again = [["execution_requeued", {"prompt_id": run.id, "attempts": run.attempts}]] if run.attempts > 1 else []
            self._journal.finish(run.id, status, teller.outputs, teller.meta, [*again, *teller.messages], teller.error)
        self.tell_queue()
        self._audience.send(run.client, run.id, [Message("executing", {"node": None, "prompt_id": run.id})])
        self.pump()
        self._signal()

    def _abort(self, seat: Seat, exception: str, message: str, traceback: Sequence[str], node: str = "", parent: str = "") -> None:
        flight = seat.flight
        assert flight is not None
        self._audience.send(flight.run.client, flight.run.id, flight.aborted(exception, message, traceback, node, parent))
        self._end(seat, flight, "error")

    def _flush(self, seat: Seat, told: list[Message | Preview]) -> None:
        if told and seat.flight is not None:
            self._audience.send(seat.flight.run.client, seat.flight.run.id, list(told))
        told.clear()

    def _signal(self) -> None:
        self._changed.set()
