"""Transactions that nest: the outermost one counts."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from types import TracebackType

__all__ = ["Transaction"]


class Transaction:
    """`with transaction:` as often and as deep as one likes; `undone` is called after a rollback, `over` after every outermost end.

    A class, because the journal enters it a dozen times for each run and a generator would cost more than what it does.
    """

    __slots__ = ("_database", "_depth", "_over", "_undone")

    def __init__(self, database: sqlite3.Connection, undone: Callable[[], None], over: Callable[[], None]) -> None:
        self._database, self._undone, self._over, self._depth = database, undone, over, 0

    def __enter__(self) -> None:
        if self._depth == 0:
            self._database.execute("BEGIN IMMEDIATE")
        self._depth += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._depth -= 1
        if self._depth:
            return
        try:
            if kind is None:
                try:
                    self._database.execute("COMMIT")
                except BaseException:
                    self._roll_back()
                    raise
            else:
                self._roll_back()
        finally:
            self._over()

    def _roll_back(self) -> None:
        if self._database.in_transaction:
            self._database.execute("ROLLBACK")
        self._undone()
