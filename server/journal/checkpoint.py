"""Moving the journal's log into its file, in a thread of its own: that waits for the disk, and the event loop must not."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from pathlib import Path

__all__ = ["Checkpointer"]

_log = logging.getLogger(__name__)

_PERIOD = 2.0  # seconds
_ENOUGH = 4 << 20  # bytes of log from which it is worth it


class Checkpointer:
    """Runs from construction to `close`."""

    def __init__(self, path: Path) -> None:
        self._path, self._wal = path, path.with_name(f"{path.name}-wal")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="journal checkpoints", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def _work(self) -> None:
        with contextlib.closing(sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)) as database:
            while not self._over.wait(_PERIOD):
                try:
                    if self._wal.stat().st_size >= _ENOUGH:
                        database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                except FileNotFoundError:
                    continue  # nothing was written yet
                except (OSError, sqlite3.Error) as error:
                    _log.warning("the journal's log could not be moved into %s: %s", self._path, error)
