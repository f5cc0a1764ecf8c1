"""The journal: every accepted run, how each ended, and what clients were told, safe against a kill at any moment."""

from __future__ import annotations

import contextlib
import heapq
import math
import os
import sqlite3
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

from graph_engine import GraphError
from server.journal.archive import Archive
from server.journal.checkpoint import Checkpointer
from server.journal.events import EventLog, Row
from server.journal.recovery import Verdict, last_words
from server.journal.rows import COLUMNS, plain, waiting_run, written
from server.journal.schema import connect, lock
from server.journal.transaction import Transaction
from server.runs import FINISHED, NewRun, Run, Status, workflow_id

__all__ = ["Duplicate", "Journal"]

_HISTORY = 10_000  # finished runs


class Duplicate(GraphError):
    """A run of this id is known already."""


class Journal:
    """Used from one thread. A call that changes something has committed when it returns, unless it is inside `batch`.

    `path` is an SQLite file, None for memory. Raises Busy when another server, or a worker that one left behind, still works with it after
    `patience` seconds.
    """

    def __init__(self, path: Path | None, *, history: int = _HISTORY, patience: float = 10.0) -> None:
        self.lock: int | None = None if path is None else lock(path, patience)
        try:
            self._database = connect(path)
        except BaseException:
            self._unlock()
            raise
        self._checkpointer = None if path is None else Checkpointer(path)
        self._log, self._archive = EventLog(self._database), Archive(self._database, history)
        self._last, self._place = self._database.execute("SELECT coalesce(max(arrival), 0), coalesce(max(place), 0) FROM runs").fetchone()
        self._arrivals: dict[str, int] = {}  # of runs that have not finished
        self._fresh: list[str] = []  # submitted in the transaction that is open
        self._transaction = Transaction(self._database, self._refuse, self._fresh.clear)
        self._pending: dict[str, Run] = {}
        self._running: dict[str, Run] = {}
        self._heap: list[tuple[float, int, str]] = []  # also holds runs that are pending no more
        query = f"SELECT {COLUMNS} FROM runs WHERE status IN ('pending', 'running') ORDER BY arrival"
        for row in self._database.execute(query).fetchall():
            body = self._database.execute("SELECT document, targets, extra FROM bodies WHERE arrival = ?", (row[0],)).fetchone()
            run = waiting_run(row, *body)
            self._arrivals[run.id] = row[0]
            if run.status == "pending":
                self._queue(run)
            else:
                self._running[run.id] = run

    def close(self) -> None:
        """Let go of the file; everything is on disk."""
        if self._checkpointer is not None:
            self._checkpointer.close()
        self._database.close()
        self._unlock()

    def batch(self) -> Transaction:
        """One transaction around everything inside. When it fails, new runs are not accepted; older ones go on in memory, not on disk."""
        return self._transaction

    # the queue

    def submit(self, new: NewRun) -> Run:
        """Accept a run. Raises Duplicate when its id is known, ValueError when its number is not finite."""
        arrival = self._last + 1
        number = float(new.number if new.number is not None else -arrival if new.front else arrival)
        if not math.isfinite(number):
            raise ValueError(f"the number of a run must be finite, not {number}")
        body = written(new.document), written(new.targets), written(new.extra)
        created, workflow = _now(), workflow_id(new.extra)
        row = (arrival, plain(new.id), number, "pending", plain(new.client), created, None, None, None, 0, workflow)
        with self.batch():
            try:
                self._database.execute(f"INSERT INTO runs ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
            except sqlite3.IntegrityError as error:
                raise Duplicate(f"a run {new.id} is known already") from error
            self._database.execute("INSERT INTO bodies (arrival, document, targets, extra) VALUES (?, ?, ?, ?)", (arrival, *body))
            self._last = arrival
            run = waiting_run(row, *body)
            self._arrivals[run.id] = arrival
            self._fresh.append(run.id)
            self._queue(run)
        return run

    def next_pending(self) -> Run | None:
        """The run that is to run next."""
        while self._heap:
            _, arrival, id = self._heap[0]
            run = self._pending.get(id)
            if run is not None and self._arrivals[id] == arrival:
                return run
            heapq.heappop(self._heap)
        return None

    def start(self, id: str, worker: str) -> Run:
        """A pending run is given to a worker."""
        run = self._pending[id]
        now = _now()
        with self.batch():
            del self._pending[id]
            self._running[id] = run
            run.status, run.started, run.worker, run.attempts = "running", now, worker, run.attempts + 1
            self._database.execute(
                "UPDATE runs SET status = 'running', started = ?, worker = ?, attempts = ? WHERE arrival = ?",
                (now, worker, run.attempts, self._arrivals[id]),
            )
        return run

    def requeue(self, id: str) -> Run:
        """A running run waits again, at its old place."""
        run = self._running.pop(id)
        run.status, run.started, run.worker = "pending", None, None
        self._queue(run)
        with self.batch():
            self._database.execute(
                "UPDATE runs SET status = 'pending', started = NULL, worker = NULL WHERE arrival = ?", (self._arrivals[id],)
            )
        return run

    def finish(
        self,
        id: str,
        status: Status,
        outputs: dict[str, dict[str, Any]],
        meta: dict[str, dict[str, Any]],
        messages: list[list[Any]],
        error: dict[str, Any] | None = None,
    ) -> Run:
        """A running run has ended."""
        run = self._running.pop(id)
        run.outputs, run.meta, run.messages, run.error = outputs, meta, messages, error
        with self.batch():
            results = written(outputs), written(meta), written(messages), written(error)
            self._database.execute(
                "INSERT OR REPLACE INTO results (arrival, outputs, meta, messages, error) VALUES (?, ?, ?, ?, ?)",
                (self._arrivals[id], *results),
            )
            self._end(run, status)
        return run

    def remove_pending(self, ids: Collection[str] | None) -> list[str]:
        """Take runs that have not begun out of the queue, None for all; the ids of those that were there."""
        removed = [id for id in (list(self._pending) if ids is None else dict.fromkeys(ids)) if id in self._pending]
        with self.batch():
            for id in removed:
                self._end(self._pending.pop(id), "interrupted")
        return removed

    def get(self, id: str) -> Run | None:
        """A run by id, in whatever state."""
        run = self._pending.get(id) or self._running.get(id)
        return self._archive.get(id) if run is None else run

    def pending(self) -> list[Run]:
        """The queue, what runs next first."""
        return self._ordered(self._pending)

    def running(self) -> list[Run]:
        return self._ordered(self._running)

    def counts(self) -> tuple[int, int]:
        """How many runs are pending, and how many run."""
        return len(self._pending), len(self._running)

    # what was

    def history(self, max_items: int | None = None, offset: int | None = None) -> list[Run]:
        """Runs that ran and finished, in that order: the newest `max_items`, or those from position `offset` on."""
        return self._archive.history(max_items, offset)

    def jobs(
        self,
        statuses: Collection[Status],
        *,
        limit: int,
        offset: int,
        sort_by: Literal["created_at", "execution_duration"] = "created_at",
        descending: bool = True,
        workflow_id: str | None = None,
    ) -> tuple[list[Run], int]:
        """One page of the runs in these states, and how many there are altogether."""
        return self._archive.jobs(statuses, limit=limit, offset=offset, sort_by=sort_by, descending=descending, workflow_id=workflow_id)

    def forget(self, ids: Collection[str] | None) -> None:
        """Delete finished runs, None for all."""
        with self.batch():
            self._archive.forget(ids)

    # what clients were told

    def record(self, rows: Sequence[Row]) -> list[int]:
        """Write what is about to be told, as (client, run, type, JSON); the number of each. Numbers grow, over all clients."""
        if not rows:
            return []
        with self.batch():
            return self._log.record(rows)

    def events(self, client: str, since: int, limit: int = 10_000) -> list[tuple[int, str, str]]:
        """What this client was told after number `since`, in order: number, type, JSON."""
        return self._log.events(plain(client), max(-1, min(since, 1 << 62)), limit)

    @property
    def last_event(self) -> int:
        """The newest number."""
        return self._log.last

    # after a crash

    def recover(self, verdict: Verdict) -> list[Run]:
        """Settle the runs that were running when the server died: marked interrupted, and their clients told, or waiting again."""
        runs = self.running()
        with self.batch():
            for run in runs:
                if verdict.again(run):
                    self.requeue(run.id)
                    continue
                words = last_words(run, self._log.of_run(run.id), verdict.reason)
                self._log.record([(run.client, run.id, kind, written(data)) for kind, data in words.told])
                self.finish(run.id, "interrupted", words.outputs, words.meta, words.messages)
        return runs

    def _refuse(self) -> None:
        for id in self._fresh:
            if self._pending.pop(id, None) is not None:
                del self._arrivals[id]

    def _queue(self, run: Run) -> None:
        self._pending[run.id] = run
        heapq.heappush(self._heap, (run.number, self._arrivals[run.id], run.id))

    def _ordered(self, runs: dict[str, Run]) -> list[Run]:
        return sorted(runs.values(), key=lambda run: (run.number, self._arrivals[run.id]))

    def _end(self, run: Run, status: Status) -> None:
        assert status in FINISHED
        self._place += 1
        run.status, run.finished = status, _now()
        arrival = self._arrivals.pop(run.id)
        self._database.execute(
            "UPDATE runs SET status = ?, finished = ?, place = ? WHERE arrival = ?", (status, run.finished, self._place, arrival)
        )
        self._archive.added()

    def _unlock(self) -> None:
        if self.lock is not None:
            with contextlib.suppress(OSError):
                os.close(self.lock)
            self.lock = None


def _now() -> int:
    return time.time_ns() // 1_000_000
