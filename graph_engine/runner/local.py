"""A run in a thread of its own, so that whoever waits for it can be interrupted and can cancel it."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Generic, Self, TypeVar

from graph_engine.stream import Cancellation

__all__ = ["LocalRun", "inside", "running"]

E = TypeVar("E")
T = TypeVar("T")

_inside: contextvars.ContextVar[tuple[object, ...]] = contextvars.ContextVar("inside runs of", default=())


def inside(owner: object) -> bool:
    """Whether the calling code is part of a run of this owner, which would wait for itself."""
    return any(each is owner for each in _inside.get())


@contextmanager
def running(owner: object) -> Iterator[None]:
    """Mark the calling code as part of a run of this owner."""
    token = _inside.set((*_inside.get(), owner))
    try:
        yield
    finally:
        _inside.reset(token)


class LocalRun(Generic[E, T]):
    """`work(cancellation, deliver)` in a thread; what it delivers comes out of `items()`, then its value out of `result()`.

    Left by an exception, the `with` block cancels and waits, so that no thread outlives it.
    """

    def __init__(
        self,
        id: str,
        owner: object,
        work: Callable[[Cancellation, Callable[[E], None]], T],
        deliver: Callable[[E | None], None] | None = None,
    ) -> None:
        self.id = id
        self._owner = owner
        self.cancellation = Cancellation()
        self._work = work
        self._queue: queue.SimpleQueue[E | None] = queue.SimpleQueue()
        self._deliver = deliver if deliver is not None else self._queue.put
        self._value: T | None = None
        self._error: BaseException | None = None
        self._ended = False
        self._thread = threading.Thread(target=self._main, name=f"latentgraph run {id}", daemon=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            self.cancel()
        self.join()

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        """Wait until the thread has ended."""
        self._thread.join()

    def cancel(self) -> None:
        self.cancellation.set()

    def items(self) -> Iterator[E]:
        """What is still to come, until the run has ended."""
        while not self._ended:
            item = self._queue.get()
            if item is None:
                self._ended = True
            else:
                yield item

    def result(self) -> T:
        """What the work gave, when it has ended; raises what it raised."""
        self.join()
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]

    def _main(self) -> None:
        try:
            with running(self._owner):
                self._value = self._work(self.cancellation, self._deliver)
        except BaseException as error:  # belongs to whoever asks for the result
            self._error = error
        finally:
            self._deliver(None)
