"""What clients were told, in order, so that one who comes back can be told again."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence

__all__ = ["EventLog"]

Row = tuple[str, str, str, str]  # client, run, type, data

_KEPT = 200_000  # events
_AGE = 24 * 3600  # seconds
_PRUNE = 2_000  # events between two prunings


class EventLog:
    """The table of events; every call is part of the transaction that is open. Numbers only grow, also over restarts."""

    def __init__(self, database: sqlite3.Connection, kept: int = _KEPT, age: float = _AGE) -> None:
        self._database, self._kept, self._age = database, kept, age
        self._last = int(database.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()[0])
        self._since_pruning = _PRUNE

    @property
    def last(self) -> int:
        """The number of the newest event; 0 when there never was one."""
        return self._last

    def record(self, rows: Sequence[Row]) -> list[int]:
        """Write events; the number of each."""
        first, now = self._last + 1, int(time.time())
        numbers = list(range(first, first + len(rows)))
        self._database.executemany(
            "INSERT INTO events (seq, client, run, type, data, time) VALUES (?, ?, ?, ?, ?, ?)",
            [(seq, client, run, kind, data, now) for seq, (client, run, kind, data) in zip(numbers, rows, strict=True)],
        )
        self._last += len(rows)
        self._since_pruning += len(rows)
        if self._since_pruning >= _PRUNE:
            self.prune()
        return numbers

    def events(self, client: str, since: int, limit: int) -> list[tuple[int, str, str]]:
        """What this client was told after number `since`, in order: number, type, data."""
        return self._database.execute(
            "SELECT seq, type, data FROM events WHERE client = ? AND seq > ? ORDER BY seq LIMIT ?", (client, since, limit)
        ).fetchall()

    def of_run(self, run: str) -> list[tuple[str, str]]:
        """Everything that was told about one run: type, data."""
        return self._database.execute("SELECT type, data FROM events WHERE run = ? ORDER BY seq", (run,)).fetchall()

    def prune(self) -> None:
        """Drop what is too old or too much. The newest event stays, because the numbering goes on from it."""
        self._since_pruning = 0
        self._database.execute("DELETE FROM events WHERE seq <= ?", (self._last - self._kept,))
        young = self._database.execute("SELECT seq FROM events WHERE time >= ? ORDER BY seq LIMIT 1", (time.time() - self._age,)).fetchone()
        self._database.execute("DELETE FROM events WHERE seq < ?", (self._last if young is None else young[0],))
