"""Gives queued runs to workers, tells their stories, and keeps the queue going whatever becomes of a worker."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from graph_engine import Problem
from graph_engine.events import Event, MemoryReport, RunDone
from server.journal import Journal
from server.journal.recovery import Verdict
from server.protocol.messages import Message, Preview
from server.runs import NewRun, Run, Status
from server.workers.affinity import Memory, traits
from server.workers.flight import Flight
from server.workers.frames import COMMAND, command, frame, read_event
from server.workers.keeper import Keeper
from server.workers.questions import Questions
from server.workers.roles import Audience, Teller, WorkerOptions, WorkerState
from server.workers.seat import Seat, resident_bytes

__all__ = ["Dispatcher"]

_log = logging.getLogger(__name__)

_CHECK = 1.0  # seconds that a submission waits for what the classes say
_FRESH = 1.0  # seconds that a report of memory counts as new
_UNWIND = 3.0  # seconds that cancelled runs are given to end when the server stops
_ATTEMPTS = 3  # workers that may die at the moment when they are given a run
_STATUS: dict[str, Status] = {"success": "success", "error": "error", "cancelled": "interrupted"}


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
        self._journal, self._audience, self._teller, self._requeue = journal, audience, teller, requeue
        inherited = () if journal.lock is None else (journal.lock,)
        self._seats: list[Seat] = []
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
            self._seats.append(seat)
        self._questions = Questions()
        self._background: set[asyncio.Task[Any]] = set()
        self._closing = False
        self._changed = asyncio.Event()

    async def start(self) -> None:
        """Settle what a crash interrupted, and start the workers; the queue moves as soon as one is ready."""
        for run in self._journal.recover(Verdict(self._requeue)):
            fate = "waits again" if run.status == "pending" else "is marked as interrupted"
            _log.warning("run %s was running when the server stopped; it %s", run.id, fate)
        for seat in self._seats:
            seat.keeper.start()
        self._tell_queue()

    async def close(self, grace: float) -> None:
        """Start no more runs, give the running ones `grace` seconds, then park them; end the workers."""
        self._closing = True
        await self._flown(grace)
        for seat in self._seats:
            if seat.flight is not None:
                self._cancel(seat)
        await self._flown(_UNWIND)
        for seat in self._seats:
            if seat.flight is not None:
                self._park(seat)
        await asyncio.gather(*(seat.keeper.close() for seat in self._seats))
        for task in self._background:
            task.cancel()

    async def ready(self, timeout: float) -> bool:
        """Wait until every worker has been ready; False when that takes too long."""
        until = time.monotonic() + timeout
        while any(seat.state.state in ("starting", "dead") for seat in self._seats):
            if not await self._change(until - time.monotonic()):
                return False
        return True

    # what clients ask for

    def submit(self, new: NewRun) -> Run:
        """Queue a run, and start it if a worker is idle. Raises Duplicate for an id that is known."""
        with self._journal.batch():
            run = self._journal.submit(new)
            self._tell_queue()
            self._pump()
        return run

    async def check(self, document: Mapping[str, Any], targets: Collection[str] | None) -> list[Problem] | None:
        """Problems that only the node classes can find; None when no worker can say so in a short time."""
        able = [seat for seat in self._seats if seat.state.state in ("idle", "running")]
        if not able:
            return None
        seat = min(able, key=lambda seat: seat.state.state != "idle")
        wanted = None if targets is None else list(targets)
        answer = await self._questions.ask(seat.keeper, "check", _CHECK, document=document, wanted=wanted)
        return None if answer is None else [Problem.model_validate(each) for each in answer["problems"]]

    def cancel(self, id: str) -> bool:
        """Take a run out of the queue, or interrupt it when it runs; whether it was there."""
        if self._journal.remove_pending([id]):
            self._tell_queue()
            return True
        return self.interrupt(id)

    def interrupt(self, id: str | None) -> bool:
        """Ask the run of this id to stop if it runs, None for all that run; whether there was one. No other run is touched."""
        asked = [seat for seat in self._seats if seat.flight is not None and (id is None or seat.flight.run.id == id)]
        for seat in asked:
            self._cancel(seat)
        return bool(asked)

    def free(self, unload_models: bool, free_memory: bool) -> None:
        """Let the workers drop idle weights, or also what they remember of earlier runs, after what they run now."""
        if not (unload_models or free_memory):
            return
        for seat in self._seats:
            seat.send_soon(command("free", models=unload_models or free_memory, results=free_memory))
            seat.memory.clear()

    def memory(self) -> list[dict[str, Any]]:
        """Who holds what, worker by worker, as last reported; a newer report is asked for."""
        for seat in self._seats:
            if seat.state.state in ("idle", "running") and time.monotonic() - seat.reported >= _FRESH:
                seat.reported = time.monotonic()
                self._spawn(self._survey(seat))
        return [seat.view() for seat in self._seats]

    async def survey(self) -> list[dict[str, Any]]:
        """`memory`, with reports that are made now."""
        await asyncio.gather(*(self._survey(seat) for seat in self._seats if seat.state.state in ("idle", "running")))
        return [seat.view() for seat in self._seats]

    @property
    def workers(self) -> Sequence[WorkerState]:
        """The workers, as they are now."""
        for seat in self._seats:
            seat.state.resident = resident_bytes(seat.state.pid)
        return [seat.state for seat in self._seats]

    # what workers say

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
            self._questions.answered(answer)
        elif op == "hello":
            state.facts, state.budget, state.broken = answer["facts"], answer["budget"], tuple(answer["broken"])
            state.state = "idle"
            for each in state.broken:
                _log.warning("worker %s could not load %s", state.name, each)
            _log.info("worker %s is ready: process %d, %d node types", state.name, answer["pid"], answer["nodes"])
            self._pump()
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
                        self._tell_queue()
                        self._pump()
            except sqlite3.Error:
                _log.exception("the journal cannot be written")
        self._signal()

    # the life of a run

    def _pump(self) -> None:
        """Start what can be started."""
        while not self._closing and (run := self._journal.next_pending()) is not None:
            idle = [seat for seat in self._seats if seat.state.state == "idle"]
            if not idle:
                return
            self._begin(self._suited(run, idle), run)

    def _suited(self, run: Run, idle: list[Seat]) -> Seat:
        if len(self._seats) == 1:
            return idle[0]
        wanted = traits(run.document)
        seat = max(idle, key=lambda seat: seat.memory.suits(wanted))  # of equals the first
        seat.memory.note(wanted)
        return seat

    def _begin(self, seat: Seat, run: Run) -> None:
        run = self._journal.start(run.id, seat.state.name)
        seat.flight = Flight(run, self._teller(run))
        seat.state.state, seat.state.run = "running", run.id
        self._tell_queue()
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
        if status == "interrupted" and self._closing and self._requeue:
            self._journal.requeue(run.id)
        else:
            again = [["execution_requeued", {"prompt_id": run.id, "attempts": run.attempts}]] if run.attempts > 1 else []
            self._journal.finish(run.id, status, teller.outputs, teller.meta, [*again, *teller.messages], teller.error)
        self._tell_queue()
        self._audience.send(run.client, run.id, [Message("executing", {"node": None, "prompt_id": run.id})])
        self._pump()
        self._signal()

    def _abort(self, seat: Seat, exception: str, message: str, traceback: Sequence[str], node: str = "", parent: str = "") -> None:
        flight = seat.flight
        assert flight is not None
        self._audience.send(flight.run.client, flight.run.id, flight.aborted(exception, message, traceback, node, parent))
        self._end(seat, flight, "error")

    def _park(self, seat: Seat) -> None:
        """Give up on a run whose node does not end; its worker is about to be ended."""
        flight = seat.flight
        assert flight is not None
        with self._journal.batch():
            self._audience.send(flight.run.client, flight.run.id, flight.stopped())
            self._end(seat, flight, "interrupted")

    def _cancel(self, seat: Seat) -> None:
        assert seat.flight is not None
        seat.send_soon(command("cancel", run=seat.flight.run.id))  # never before the run itself

    def _flush(self, seat: Seat, told: list[Message | Preview]) -> None:
        if told and seat.flight is not None:
            self._audience.send(seat.flight.run.client, seat.flight.run.id, list(told))
        told.clear()

    def _tell_queue(self) -> None:
        self._audience.queue_changed(sum(self._journal.counts()))

    # waiting

    async def _survey(self, seat: Seat) -> None:
        answer = await self._questions.ask(seat.keeper, "report", _CHECK)
        if answer is not None:
            seat.reported = time.monotonic()
            seat.state.facts = answer["facts"]
            seat.state.residents = tuple((owner, size) for owner, size in answer["residents"])
            seat.state.used = sum(size for _, size in seat.state.residents)

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _flown(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while any(seat.flight is not None for seat in self._seats):
            if not await self._change(until - time.monotonic()):
                return

    async def _change(self, seconds: float) -> bool:
        """Wait until something may have changed; False when the time is up."""
        self._changed.clear()
        try:
            await asyncio.wait_for(self._changed.wait(), max(seconds, 0))
        except TimeoutError:
            return False
        return True

    def _signal(self) -> None:
        self._changed.set()
