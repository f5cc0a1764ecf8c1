"""Rows of the journal as runs."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from server.runs import Run

__all__ = ["COLUMNS", "EMPTY", "plain", "run_of", "waiting_run", "written"]

COLUMNS = "arrival, id, number, status, client, created, started, finished, worker, attempts, workflow"
EMPTY = {"document": "{}", "targets": "[]", "extra": "{}", "outputs": "{}", "meta": "{}", "messages": "[]", "error": "null"}
_encode = json.JSONEncoder(separators=(",", ":")).encode
_TABLE = {name: "bodies" if name in ("document", "targets", "extra") else "results" for name in EMPTY}


def run_of(row: tuple[Any, ...], database: sqlite3.Connection) -> Run:
    """A run from its small row; the rest is read when asked for."""
    arrival, id, number, status, client, created, started, finished, worker, attempts, workflow = row

    def read(name: str) -> str:
        found = database.execute(f"SELECT {name} FROM {_TABLE[name]} WHERE arrival = ?", (arrival,)).fetchone()
        return EMPTY[name] if found is None else str(found[0])

    return Run.lazy(id, number, status, client, created, started, finished, worker, attempts, workflow, read)


def waiting_run(row: tuple[Any, ...], document: str, targets: str, extra: str) -> Run:
    """A run that has not finished, with its texts at hand."""
    _, id, number, status, client, created, started, finished, worker, attempts, workflow = row
    texts = EMPTY | {"document": document, "targets": targets, "extra": extra}
    return Run.lazy(id, number, status, client, created, started, finished, worker, attempts, workflow, texts.__getitem__)


def written(value: Any) -> str:
    """JSON in ASCII, so that half a surrogate pair that a client sent can be stored as well."""
    return _encode(value)


def plain(text: str) -> str:
    """A text that SQLite takes: half a surrogate pair becomes a question mark."""
    return text.encode("utf-8", "replace").decode()
