"""One run on its way, and how its story ends when the engine cannot tell it."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Literal

from graph_engine.events import Event, NodeFailed, RunDone, RunStarted
from server.protocol.messages import Message, Preview
from server.runs import Run
from server.workers.roles import Teller

__all__ = ["Flight"]

_log = logging.getLogger(__name__)


class Flight:
    """A run that a worker has."""

    def __init__(self, run: Run, teller: Teller) -> None:
        self.run, self.teller = run, teller
        self._began = time.monotonic()
        self._seq = 0
        self._titles: dict[str, str] | None = None

    def tell(self, event: Event) -> Sequence[Message | Preview]:
        """The messages of an event. A story that fails costs its messages, never the run."""
        self._seq = event.seq
        if isinstance(event, RunStarted):
            self._titles = event.titles
        try:
            return self.teller.tell(event)
        except Exception:
            _log.exception("run %s: an event of kind %s could not be told", self.run.id, event.kind)
            return ()

    def aborted(
        self, exception: str, message: str, traceback: Sequence[str] = (), node: str = "", parent: str = ""
    ) -> list[Message | Preview]:
        """The end of a run that the engine could not end: the node that was at work, or the run itself, fails with this message."""
        entry = self.run.document.get(parent or node) if node else None
        kind = str(entry.get("class_type", "")) if isinstance(entry, dict) else ""
        title = (self._titles or {}).get(node, kind)
        failed = NodeFailed(
            run=self.run.id,
            node=node,
            parent=parent,
            reason="error",
            title=title,
            class_type=kind,
            message=message,
            exception=exception,
            traceback=tuple(traceback),
        )
        return self._finish("error", message, failed)

    def stopped(self) -> list[Message | Preview]:
        """The end of a run that is given up on."""
        return self._finish("cancelled", "the server stops")

    def _finish(self, status: Literal["error", "cancelled"], message: str, *last: Event) -> list[Message | Preview]:
        run, spent = self.run.id, time.monotonic() - self._began
        events: list[Event] = [] if self._titles is not None else [RunStarted(run=run, nodes=(), titles={})]
        events += [*last, RunDone(run=run, status=status, seconds=spent, executed=0, cached=0, message=message)]
        seq, now = self._seq, time.time()
        numbered = [event.model_copy(update={"seq": seq + place, "time": now}) for place, event in enumerate(events, 1)]
        return [message for event in numbered for message in self.tell(event)]
