"""Content digests of files and folders, computed once and remembered."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import time
from pathlib import Path

__all__ = ["Digests"]

_SETTLED = 1_000_000_000  # ns; a file written this lately may be written again within one tick of the file system's clock


class Digests:
    """sha256 by content, remembered by path, size and modification time in an SQLite file, or in memory when `path` is
    None.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        if path is not None:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        # autocommit: every statement is one small transaction, and other processes may use the same file
        self._store = sqlite3.connect(path or ":memory:", timeout=30, check_same_thread=False, isolation_level=None)
        if path is not None:
            self._store.execute("PRAGMA journal_mode=WAL")
            self._store.execute("PRAGMA synchronous=NORMAL")
        self._store.execute("CREATE TABLE IF NOT EXISTS digest (path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, sha256 TEXT)")

    def of(self, path: str | Path) -> str:
        """The sha256 of a file as hex; of a folder, that of its sorted relative names and file digests. Raises OSError
        when it is not there.
        """
        path = Path(os.path.realpath(path))
        if not path.is_dir():
            return self._file(path)
        total = hashlib.sha256(b"folder")
        inside = sorted((found.relative_to(path).as_posix(), found) for found in path.rglob("*") if found.is_file())
        for name, found in inside:
            if not any(part.startswith(".") or part == "__pycache__" for part in Path(name).parts):
                total.update(f"\0{name}\0{self._file(found)}".encode("utf-8", "surrogateescape"))
        return total.hexdigest()

    def close(self) -> None:
        """Let go of the SQLite file."""
        with self._lock:
            self._store.close()

    def _file(self, path: Path) -> str:
        key = os.fsdecode(path).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        while True:
            before = path.stat()
            with self._lock:
                row = self._store.execute("SELECT size, mtime_ns, sha256 FROM digest WHERE path = ?", (key,)).fetchone()
            if row is not None and row[:2] == (before.st_size, before.st_mtime_ns):
                return str(row[2])
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            after = path.stat()
            if (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns):
                break  # else it was written meanwhile
        if time.time_ns() - before.st_mtime_ns > _SETTLED:
            with self._lock:
                self._store.execute(
                    "INSERT OR REPLACE INTO digest VALUES (?, ?, ?, ?)",
                    (key, before.st_size, before.st_mtime_ns, digest),
                )
        return digest
