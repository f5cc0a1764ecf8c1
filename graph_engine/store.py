"""The disk tier: results that outlive the process, indexed in SQLite, their tensors in safetensors files. Whatever is damaged is a miss."""

from __future__ import annotations

import hashlib
import itertools
import os
import sqlite3
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from graph_engine.codec import NotPlain, decode
from graph_engine.keys import environment_key
from graph_engine.record import Record

if TYPE_CHECKING:
    from graph_engine.device import Device

__all__ = ["Saved", "Store"]

_FORMAT = 1  # of the tables and skeletons; another one on disk is cleared
_RECORDS = 200_000  # rows without values that are remembered
_TABLES = """
CREATE TABLE IF NOT EXISTS result (
    key BLOB PRIMARY KEY, record TEXT NOT NULL, skeleton TEXT, digest BLOB,
    bytes INTEGER NOT NULL, worth REAL NOT NULL, used REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS asked (key BLOB PRIMARY KEY, names TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS result_worth ON result (worth, used) WHERE skeleton IS NOT NULL;
"""


class Saved(NamedTuple):
    """A result to write; without a skeleton only the record of it."""

    key: bytes
    record: Record
    skeleton: str | None = None
    tensors: tuple[Any, ...] = ()


class Store:
    """Results by key in a folder, at most `budget` bytes of values; those that are cheapest to make again per byte go first."""

    def __init__(self, folder: Path, device: Device, budget: int, environment: str) -> None:
        self._folder, self._device, self.budget, self._environment = folder / "results", device, budget, environment
        self._lock = threading.RLock()
        self._parts = itertools.count()
        self._used: dict[bytes, float] = {}
        self._folder.mkdir(parents=True, exist_ok=True)
        self._base = _open(folder / "results.sqlite")
        self._sweep()

    def close(self) -> None:
        with self._lock:
            self._base.close()

    def record(self, key: bytes) -> tuple[Record, bool] | None:
        """What is remembered of a result, and whether its value is here."""
        with self._lock:
            row = self._one("SELECT record, skeleton IS NOT NULL FROM result WHERE key = ?", self._key(key))
        if row is None:
            return None
        try:
            return Record.from_json(row[0]), bool(row[1])
        except (ValueError, KeyError, TypeError):
            self.forget(key)
            return None

    def load(self, key: bytes) -> tuple[Any, ...] | None:
        """The value of a result, tensors where they were; None when it is gone or damaged."""
        with self._lock:
            row = self._one("SELECT skeleton, digest FROM result WHERE key = ? AND skeleton IS NOT NULL", self._key(key))
        if row is None:
            return None
        skeleton, digest = row
        try:
            tensors: dict[str, Any] = {}
            if digest is not None:
                path = self._path(key)
                if _digest(path) != digest:
                    raise NotPlain(f"{path} is damaged")
                tensors = self._device.load_tensors(path)
            value: tuple[Any, ...] = decode(skeleton, tensors, self._device.to_device)
        except (NotPlain, OSError, ValueError):
            self.forget(key)
            return None
        with self._lock:
            self._used[self._key(key)] = time.time()  # noted with the next write: reading must not wait for the lock
        return value

    def write(self, results: Iterable[Saved]) -> None:
        """Keep results, whole or not at all. Raises OSError or sqlite3.Error when the disk does not take them."""
        with self._lock, self._base:
            used, self._used = self._used, {}
            self._base.executemany("UPDATE result SET used = ? WHERE key = ?", [(at, key) for key, at in used.items()])
            for saved in results:
                digest, size = None, 0
                if saved.skeleton is not None:
                    size = len(saved.skeleton)
                    if saved.tensors:
                        digest, written = self._write_tensors(saved)
                        size += written
                worth = max(saved.record.seconds, 1e-6) / max(size, 1)
                row = (self._key(saved.key), saved.record.to_json(), saved.skeleton, digest, size, worth, time.time())
                self._base.execute("INSERT OR REPLACE INTO result VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        self._trim()

    def forget(self, key: bytes) -> None:
        """Drop the value of a result."""
        with self._lock:
            self._drop(self._key(key))

    def asked(self, key: bytes) -> tuple[str, ...] | None:
        """Which lazy inputs a node asked for, given the inputs that this key stands for."""
        with self._lock:
            row = self._one("SELECT names FROM asked WHERE key = ?", self._key(key))
        return None if row is None else tuple(name for name in row[0].split("\n") if name)

    def write_asked(self, asked: Iterable[tuple[bytes, tuple[str, ...]]]) -> None:
        rows = [(self._key(key), "\n".join(names)) for key, names in asked]
        with self._lock, self._base:
            self._base.executemany("INSERT OR REPLACE INTO asked VALUES (?, ?)", rows)

    def _key(self, key: bytes) -> bytes:
        return environment_key(key, self._environment)

    def _path(self, key: bytes) -> Path:
        return self._file(self._key(key))

    def _file(self, key: bytes) -> Path:
        return self._folder / key.hex()[:2] / f"{key.hex()}.safetensors"

    def _one(self, query: str, key: bytes) -> Any:
        try:
            return self._base.execute(query, (key,)).fetchone()
        except sqlite3.DatabaseError:  # a damaged page: a miss
            return None

    def _write_tensors(self, saved: Saved) -> tuple[bytes, int]:
        path = self._path(saved.key)
        path.parent.mkdir(exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}.{next(self._parts)}.part")
        try:
            self._device.save_tensors(part, {str(i): tensor for i, tensor in enumerate(saved.tensors)})
            digest, size = _digest(part), part.stat().st_size
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        return digest, size

    def _drop(self, stored: bytes) -> None:
        with self._base:
            self._base.execute("UPDATE result SET skeleton = NULL, digest = NULL, bytes = 0 WHERE key = ?", (stored,))
        self._file(stored).unlink(missing_ok=True)

    def _trim(self) -> None:
        with self._lock:
            used = self._base.execute("SELECT coalesce(sum(bytes), 0) FROM result").fetchone()[0]
            while used > self.budget:
                rows = self._base.execute(
                    "SELECT key, bytes FROM result WHERE skeleton IS NOT NULL ORDER BY worth, used LIMIT 100"
                ).fetchall()
                if not rows:
                    break
                for key, size in rows:
                    if used <= self.budget:
                        break
                    self._drop(key)
                    used -= size
            excess = self._base.execute("SELECT count(*) FROM result").fetchone()[0] - _RECORDS
            if excess > 0:
                with self._base:
                    self._base.execute(
                        "DELETE FROM result WHERE key IN (SELECT key FROM result WHERE skeleton IS NULL ORDER BY used LIMIT ?)",
                        (excess,),
                    )

    def _sweep(self) -> None:
        """Remove files that no row speaks of: what a killed process left."""
        known = {key.hex() for (key,) in self._base.execute("SELECT key FROM result WHERE digest IS NOT NULL")}
        old = time.time() - 3600  # another process may just be writing
        for path in self._folder.glob("*/*"):
            if path.name.partition(".")[0] in known and path.suffix != ".part":
                continue
            try:
                if path.stat().st_mtime < old:
                    path.unlink()
            except FileNotFoundError:
                continue  # another process swept it


def _open(path: Path) -> sqlite3.Connection:
    try:
        return _connect(path)
    except sqlite3.OperationalError:  # locked, or a folder that may not be written: not damage
        raise
    except sqlite3.DatabaseError:
        for suffix in ("", "-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
        return _connect(path)


def _connect(path: Path) -> sqlite3.Connection:
    base = sqlite3.connect(path, timeout=30, check_same_thread=False)
    try:
        base.execute("PRAGMA journal_mode=WAL")
        base.execute("PRAGMA synchronous=NORMAL")
        if base.execute("PRAGMA user_version").fetchone()[0] not in (0, _FORMAT):
            base.executescript("DROP TABLE IF EXISTS result; DROP TABLE IF EXISTS asked;")
        base.executescript(_TABLES)
        base.execute(f"PRAGMA user_version = {_FORMAT}")
    except sqlite3.Error:
        base.close()
        raise
    return base


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()
