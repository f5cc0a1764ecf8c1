"""The journal's SQLite file: its tables, its version, and the lock that keeps two servers from working on one file."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from pathlib import Path

from graph_engine import GraphError

__all__ = ["VERSION", "Busy", "connect", "lock"]

VERSION = 1

# The small row changes several times in a run's life; document and results are written once, and lie elsewhere so as not to be rewritten.
_TABLES = """
CREATE TABLE runs (
    arrival INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    number REAL NOT NULL,
    status TEXT NOT NULL,
    client TEXT NOT NULL,
    created INTEGER NOT NULL,
    started INTEGER,
    finished INTEGER,
    worker TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    workflow TEXT,
    place INTEGER
);
CREATE INDEX runs_by_place ON runs (place) WHERE place IS NOT NULL;
CREATE TABLE bodies (arrival INTEGER PRIMARY KEY, document TEXT NOT NULL, targets TEXT NOT NULL, extra TEXT NOT NULL);
CREATE TABLE results (arrival INTEGER PRIMARY KEY, outputs TEXT NOT NULL, meta TEXT NOT NULL, messages TEXT NOT NULL, error TEXT NOT NULL);
CREATE TABLE events (
    seq INTEGER PRIMARY KEY,
    client TEXT NOT NULL,
    run TEXT NOT NULL,
    type TEXT NOT NULL,
    data TEXT NOT NULL,
    time INTEGER NOT NULL
);
CREATE INDEX events_by_client ON events (client, seq);
"""


class Busy(GraphError):
    """Another server, or a worker that one left behind, uses the journal."""


def connect(path: Path | None) -> sqlite3.Connection:
    """Open the file, or a journal in memory, and bring it into being. Raises GraphError for one that a later version wrote."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(":memory:" if path is None else path, isolation_level=None, check_same_thread=False, cached_statements=256)
    try:
        # WAL with synchronous=NORMAL: what is committed outlives the process at any moment; a power cut may cost the newest commits
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute("PRAGMA wal_autocheckpoint = 40000")  # pages; well before that the Checkpointer has done it
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise GraphError(
                f"the journal {path} is of version {version}, written by a later latentgraph; this one knows version {VERSION}"
            )
        if version == 0:
            database.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {VERSION}; COMMIT;")
    except BaseException:
        database.close()
        raise
    return database


def lock(path: Path, patience: float) -> int:
    """Take the file beside the journal; the descriptor, which workers inherit, so that it is free only when all of them have ended.

    Raises Busy when it is still held after `patience` seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    until = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() >= until:
                os.close(descriptor)
                raise Busy(f"another server, or a worker that one left behind, uses {path}; give this one another --home") from None
            time.sleep(0.05)
