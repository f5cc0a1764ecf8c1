"""The server's log: lines for people or for machines, and the last ones kept for the editor's console tab."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

__all__ = ["Recent", "set_up"]

Entry = dict[str, str]  # t: ISO 8601, m: text
_KEPT = 500
_LINE = 2000  # characters of one entry that the console tab gets
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class JsonLine(logging.Formatter):
    """One JSON object a line: time, level, logger, message, what was passed as `extra`, and the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {key: value for key, value in vars(record).items() if key not in _OWN}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class Recent(logging.Handler):
    """The last lines, for the editor's console tab, and the clients that want to hear of new ones.

    `start` says how a client is told; it is called in that event loop, whichever thread has logged.
    """

    def __init__(self, kept: int = _KEPT) -> None:
        super().__init__(logging.INFO)
        self.entries: deque[Entry] = deque(maxlen=kept)
        self.clients: set[str] = set()
        self._tell: Callable[[str, Entry], None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, loop: asyncio.AbstractEventLoop, tell: Callable[[str, Entry], None]) -> None:
        """Begin to listen to everything that is logged."""
        self._loop, self._tell = loop, tell
        logging.getLogger().addHandler(self)

    def stop(self) -> None:
        """Listen no more."""
        logging.getLogger().removeHandler(self)
        self._loop = self._tell = None

    def emit(self, record: logging.LogRecord) -> None:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        entry = {"t": moment, "m": f"{record.levelname.lower()}: {record.getMessage()}"[:_LINE] + "\n"}
        self.entries.append(entry)
        if self.clients and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._pass_on, entry)

    def _pass_on(self, entry: Entry) -> None:
        if self._tell is not None:
            for client in tuple(self.clients):
                self._tell(client, entry)


def set_up(level: str, *, as_json: bool) -> None:
    """Send everything that is logged to standard error; uvicorn's own lines too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLine() if as_json else logging.Formatter("%(asctime)s %(levelname).1s %(name)s: %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel("WARNING" if level != "debug" else "INFO")
