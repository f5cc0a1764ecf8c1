"""What happens in a run, as events and as the lists that its result shows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from graph_engine.attempt import Reason, explain
from graph_engine.device import Device
from graph_engine.events import (
    Artifact,
    MemoryReport,
    NodeCached,
    NodeDone,
    NodeExpanded,
    NodeFailed,
    NodeStarted,
    Resident,
    RunDone,
    RunStarted,
)
from graph_engine.house import Status
from graph_engine.record import Record
from graph_engine.stream import Stream
from graph_engine.task import Task

__all__ = ["Pause", "Report"]

Pause = Callable[[Task, tuple[Any, ...] | None, NodeFailed | None], None]  # a node, its new outputs, or why there are none


class Report:
    """Tells the stream, and remembers which nodes ran, which were cached, what failed and which files there are.

    `pause` is called after each node and may take its time.
    """

    def __init__(self, stream: Stream, device: Device, pause: Pause | None) -> None:
        self.stream, self._device, self._pause = stream, device, pause
        self.executed: dict[str, None] = {}
        self.cached: dict[str, None] = {}
        self.failures: list[NodeFailed] = []
        self.artifacts: dict[str, Artifact] = {}
        self.interrupted = False  # a node was stopped in its work

    def begun(self, nodes: Iterable[str], titles: Callable[[], dict[str, str]]) -> None:
        """The run has a plan; `titles` also names nodes that may come into it."""
        if self.stream.heard:
            self.stream.emit(RunStarted, nodes=tuple(nodes), titles=titles())

    def started(self, task: Task) -> None:
        self.stream.emit(NodeStarted, node=task.id, parent=task.parent)

    def hit(self, task: Task, record: Record) -> None:
        """A node need not run; one that would not have run in the first place is passed over."""
        if record.blocked:
            return
        self.cached[task.id] = None
        self._note(record.artifacts)
        self.stream.emit(NodeCached, node=task.id, parent=task.parent, artifacts=record.artifacts, ui=record.ui)
        if self._pause is not None:
            self._pause(task, None, None)

    def expanded(self, task: Task, titles: Mapping[str, str]) -> None:
        self.stream.emit(NodeExpanded, node=task.id, parent=task.parent, nodes=tuple(titles), titles=dict(titles))

    def ran(self, task: Task, record: Record, artifacts: tuple[Artifact, ...]) -> None:
        """A node has finished; `artifacts` are those that it wrote itself."""
        if record.blocked:
            return
        self.executed[task.id] = None
        self.cached.pop(task.id, None)
        self._note(artifacts)
        spent = time.perf_counter() - task.began
        self.stream.emit(NodeDone, node=task.id, parent=task.parent, seconds=spent, bytes=record.bytes, artifacts=artifacts, ui=record.ui)

    def pause(self, task: Task, outputs: tuple[Any, ...]) -> None:
        """After a node that ran has settled."""
        if self._pause is not None and task.record is not None and not task.record.blocked:
            self._pause(task, outputs, None)

    def failed(
        self, task: Task, error: BaseException, reason: Reason, inputs: dict[str, str], residents: Iterable[tuple[str, int]]
    ) -> None:
        message, trace = explain(error)
        event = self.stream.make(
            NodeFailed,
            node=task.id,
            parent=task.parent,
            reason=reason,
            title=task.title,
            class_type=task.spec.type,
            message=message,
            exception=type(error).__name__,
            traceback=trace,
            inputs=inputs,
            residents=self._residents(residents),
        )
        if reason == "cancelled":
            self.interrupted = True
        else:
            self.failures.append(event)
        if self._pause is not None:
            self._pause(task, None, event)

    def end(self, status: Status, seconds: float, message: str) -> None:
        if not self.stream.heard:
            return
        rows = self._device.residents()
        self.stream.emit(
            MemoryReport,
            device=self._device.name,
            budget=self._device.budget,
            used=sum(size for _, size in rows),
            residents=self._residents(rows),
        )
        self.stream.emit(
            RunDone,
            status=status,
            seconds=seconds,
            executed=len(self.executed),
            cached=len(self.cached),
            artifacts=tuple(self.artifacts.values()),
            message=message,
        )

    def _note(self, artifacts: Iterable[Artifact]) -> None:
        for artifact in artifacts:
            self.artifacts[artifact.path] = artifact

    def _residents(self, rows: Iterable[tuple[str, int]]) -> tuple[Resident, ...]:
        return tuple(Resident(owner=owner, place=self._device.name, bytes=size) for owner, size in rows)
