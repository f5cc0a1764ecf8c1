"""The finished runs in the journal's file: looked up, paged, and pruned."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from typing import Literal

from server.journal.rows import COLUMNS, plain, run_of
from server.runs import Run, Status

__all__ = ["Archive"]

_PRUNE = 100  # finished runs between two prunings
_MARKS = 500  # ids in one statement
_MOST = 1 << 62  # what SQLite takes as a number of rows


class Archive:
    """Keeps the newest `kept` finished runs. Calls that change something are part of the transaction that is open."""

    def __init__(self, database: sqlite3.Connection, kept: int) -> None:
        self._database, self._kept, self._since_pruning = database, kept, _PRUNE

    def get(self, id: str) -> Run | None:
        """A run by id."""
        row = self._database.execute(f"SELECT {COLUMNS} FROM runs WHERE id = ?", (plain(id),)).fetchone()
        return None if row is None else run_of(row, self._database)

    def history(self, max_items: int | None = None, offset: int | None = None) -> list[Run]:
        """Runs that ran and finished, in that order: the newest `max_items`, or those from position `offset` on."""
        query, limit = f"SELECT {COLUMNS} FROM runs WHERE place IS NOT NULL AND started IS NOT NULL", -1 if max_items is None else max_items
        if offset is None or offset < 0:
            rows = self._database.execute(f"{query} ORDER BY place DESC LIMIT ?", (max(limit, -1),)).fetchall()[::-1]
        else:
            rows = self._database.execute(f"{query} ORDER BY place LIMIT ? OFFSET ?", (max(limit, -1), min(offset, _MOST))).fetchall()
        return [run_of(row, self._database) for row in rows]

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
        where, values = f"status IN ({', '.join('?' * len(statuses))})", [str(status) for status in statuses]
        if workflow_id is not None:
            where, values = f"{where} AND workflow = ?", [*values, plain(workflow_id)]
        (total,) = self._database.execute(f"SELECT count(*) FROM runs WHERE {where}", values).fetchone()
        direction = "DESC" if descending else "ASC"
        order = f"arrival {direction}"
        if sort_by == "execution_duration":
            order = f"coalesce(finished - started, 0) {direction}, {order}"
        page = [*values, min(limit, _MOST), min(offset, _MOST)]
        rows = self._database.execute(f"SELECT {COLUMNS} FROM runs WHERE {where} ORDER BY {order} LIMIT ? OFFSET ?", page).fetchall()
        return [run_of(row, self._database) for row in rows], total

    def forget(self, ids: Collection[str] | None) -> None:
        """Delete finished runs, None for all."""
        if ids is None:
            self._delete("place IS NOT NULL", [])
            return
        known = [plain(id) for id in ids]
        for begin in range(0, len(known), _MARKS):
            some = known[begin : begin + _MARKS]
            self._delete(f"place IS NOT NULL AND id IN ({', '.join('?' * len(some))})", some)

    def added(self) -> None:
        """A run has finished; now and then the oldest go."""
        self._since_pruning += 1
        if self._since_pruning >= _PRUNE:
            self._since_pruning = 0
            oldest = f"SELECT arrival FROM runs WHERE place IS NOT NULL ORDER BY place DESC LIMIT -1 OFFSET {self._kept}"
            self._delete(f"arrival IN ({oldest})", [])

    def _delete(self, where: str, values: list[str]) -> None:
        for table in ("bodies", "results"):
            self._database.execute(f"DELETE FROM {table} WHERE arrival IN (SELECT arrival FROM runs WHERE {where})", values)
        self._database.execute(f"DELETE FROM runs WHERE {where}", values)
