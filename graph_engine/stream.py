"""The events of one run: numbered in order, and progress thinned to what an eye can follow. State changes are never dropped."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from graph_engine.errors import Cancelled
from graph_engine.events import NodePreview, NodeProgress

if TYPE_CHECKING:
    from graph_engine.events import Event

__all__ = ["Cancellation", "Progress", "Stream"]

E = TypeVar("E", bound="Event")

_PROGRESS = 0.05  # seconds between two progress events of a node
_PREVIEW = 0.25


class Cancellation:
    """A wish to stop, from any thread; `wake` is called once when it comes."""

    def __init__(self) -> None:
        self._set = threading.Event()
        self.wake: Callable[[], None] | None = None

    def __bool__(self) -> bool:
        return self._set.is_set()

    def set(self) -> None:
        self._set.set()
        if self.wake is not None:
            self.wake()

    def check(self) -> None:
        """Raise Cancelled if the wish has come."""
        if self._set.is_set():
            raise Cancelled("the run was cancelled")


class Stream:
    """Numbers events and hands them to a listener, one at a time; without a listener only what is asked for is made."""

    def __init__(self, run: str, listener: Callable[[Event], None] | None, *, previews: bool = False) -> None:
        self.run, self._listener = run, listener
        self.previews = previews and listener is not None
        self._lock = threading.Lock()
        self._seq = 0

    @property
    def heard(self) -> bool:
        return self._listener is not None

    def emit(self, kind: type[E], **fields: Any) -> None:
        """Make an event of this kind, if anybody listens."""
        if self._listener is not None:
            self.make(kind, **fields)

    def make(self, kind: type[E], **fields: Any) -> E:
        """Make an event in any case."""
        with self._lock:
            self._seq += 1
            event = kind(run=self.run, seq=self._seq, time=time.time(), **fields)
            if self._listener is not None:
                self._listener(event)
        return event


class Progress:
    """Watches one node run: checks for cancellation, and lets through the first, the last and some progress events between."""

    def __init__(self, stream: Stream, cancellation: Cancellation, node: str, parent: str) -> None:
        self._stream, self._cancellation = stream, cancellation
        self._node, self._parent = node, parent
        self._began = self._previewed = time.monotonic()
        self._told: float | None = None

    def check(self) -> None:
        self._cancellation.check()

    def step(self, step: int, steps: int, preview: Callable[[], bytes | None] | None) -> None:
        now = time.monotonic()
        if self._stream.heard and (self._told is None or step >= steps or now - self._told >= _PROGRESS):
            self._told = now
            spent = now - self._began
            rate = step / spent if step > 0 and spent > 0 else None
            self._stream.emit(NodeProgress, node=self._node, parent=self._parent, step=step, steps=steps, rate=rate)
        if preview is not None and self._stream.previews and now - self._previewed >= _PREVIEW:
            self._previewed = now
            if (data := preview()) is not None:
                self._stream.emit(NodePreview, node=self._node, parent=self._parent, data=data)
