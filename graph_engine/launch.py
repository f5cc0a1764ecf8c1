"""Where a node runs: on the device's thread, or beside it when it waits for something or only saves what others made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from graph_engine.attempt import Outcome, attempt, attempt_async
from graph_engine.context import Context, GraphView
from graph_engine.device import Device
from graph_engine.errors import NodeError
from graph_engine.house import House
from graph_engine.runner.aside import Aside
from graph_engine.stream import Cancellation, Progress, Stream
from graph_engine.task import RunningGraph, Task

__all__ = ["Launch"]


class Launch:
    """Starts the nodes of one run."""

    def __init__(
        self,
        house: House,
        stream: Stream,
        cancellation: Cancellation,
        graph: RunningGraph,
        document: Callable[[], Mapping[str, Any]],
        extra: Mapping[str, Any] | None,
    ) -> None:
        self._house, self._stream, self._cancellation = house, stream, cancellation
        self._graph, self._document, self._extra = graph, document, extra
        self.aside: Aside[Outcome] = Aside(Outcome(error=NodeError("cancelled"), reason="cancelled"))
        cancellation.wake = self.aside.wake

    def __call__(self, task: Task, values: dict[str, Any]) -> Outcome | None:
        """Run a node and return how that ended; None when it runs beside, and `aside` will give its outcome."""
        debug, device = self._house.debug, self._house.device
        context = partial(self._context, task, lambda: device)
        if task.asynchronous:
            self.aside.submit_async(task.id, attempt_async(task, values, context, device, debug=debug))
            return None
        if task.overlaps and self._house.worth_a_thread(task):
            self.aside.submit(task.id, partial(self._beside, task, values))
            return None
        with self._house.device_lock:
            return attempt(task, values, context, device, debug=debug)

    def _beside(self, task: Task, values: dict[str, Any]) -> Outcome:
        """Beside the device's work, unless the node asks for the device: then it waits for its turn, and keeps it until it ends."""
        lock, device, held = self._house.device_lock, self._house.device, False

        def exclusive() -> Device:
            nonlocal held
            while not held:
                self._cancellation.check()
                held = lock.acquire(timeout=0.05)
            return device

        try:
            return attempt(task, values, partial(self._context, task, exclusive), device, debug=self._house.debug)
        finally:
            if held:
                lock.release()

    def _context(self, task: Task, device: Callable[[], Device]) -> Context:
        def graph() -> GraphView:
            task.looked = True
            return self._graph

        return Context(
            node=task.id,
            title=task.title,
            folders=self._house.folders,
            device=device,
            workflow=self._document,
            extra=self._extra,
            debug=self._house.debug,
            watch=Progress(self._stream, self._cancellation, task.id, task.parent),
            graph=graph,
        )
