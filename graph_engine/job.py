"""A run before it runs: the document checked, old nodes raised, and what is wanted found."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graph_engine.builder import Graph
from graph_engine.errors import GraphError, WorkflowError
from graph_engine.events import Event, RunDone, RunQueued
from graph_engine.executor import Execution
from graph_engine.house import Finished, House
from graph_engine.migrate import migrate
from graph_engine.report import Pause
from graph_engine.result import Result
from graph_engine.stream import Cancellation, Stream
from graph_engine.validate import objections, wanted_nodes
from graph_engine.workflow import Workflow

if TYPE_CHECKING:
    from threading import Lock

__all__ = ["Document", "Job", "read"]

Document = Workflow | Graph | Mapping[str, Any] | str | bytes | Path


@dataclass
class Job:
    """One run of a valid workflow; `held` are the nodes that were asked for by name, else those with effects are wanted."""

    house: House
    submitted: Workflow
    held: tuple[str, ...] | None
    extra: Mapping[str, Any]
    previews: bool
    run: str

    @classmethod
    def of(
        cls,
        house: House,
        document: Document,
        wanted: Collection[str] | None,
        extra: Mapping[str, Any] | None,
        *,
        previews: bool = False,
        run: str | None = None,
    ) -> Job:
        """Read and check a document. Raises WorkflowError with everything that is wrong with it."""
        workflow = read(document)
        if isinstance(wanted, str):
            wanted = (wanted,)
        held = None if wanted is None else tuple(dict.fromkeys(workflow.find(node) for node in wanted))
        registry = house.registry
        if problems := objections(workflow, registry.specs, house.folders, wanted=held, registry=registry):
            raise WorkflowError(problems)
        return cls(house, workflow, held, extra or {}, previews, run or uuid.uuid4().hex)

    @cached_property
    def workflow(self) -> Workflow:
        return migrate(self.submitted, self.house.registry)[0]

    @cached_property
    def document(self) -> Mapping[str, Any]:
        """The workflow as JSON; empty when it holds values that exist only in memory."""
        try:
            return self.submitted.to_json()
        except GraphError:
            return {}

    def __call__(
        self,
        turn: Lock,
        cancellation: Cancellation,
        listener: Callable[[Event], None] | None,
        pause: Pause | None = None,
    ) -> Result:
        """Wait for the turn, and run."""
        stream = Stream(self.run, listener, previews=self.previews)
        stream.emit(RunQueued)
        while not turn.acquire(timeout=0.05):
            if cancellation:
                stream.emit(RunDone, status="cancelled", seconds=0.0, executed=0, cached=0)
                return self._result(Finished("cancelled"))
        try:
            held = self.held
            wanted = wanted_nodes(self.workflow, self.house.registry.specs) if held is None else held
            execution = Execution(
                self.house,
                self.workflow,
                wanted,
                stream,
                cancellation,
                held=held or (),
                document=lambda: self.document,
                extra=self.extra,
                pause=pause,
            )
            return self._result(execution.run())
        finally:
            turn.release()

    def _result(self, finished: Finished) -> Result:
        return Result(
            run=self.run,
            status=finished.status,
            failures=finished.failures,
            executed=finished.executed,
            cached=finished.cached,
            artifacts=finished.artifacts,
            seconds=finished.seconds,
            _workflow=self.submitted,
            _types=finished.types,
            _keys=finished.keys,
            _values=finished.values,
            _cache=self.house.cache,
        )


def read(document: Document) -> Workflow:
    """A workflow from a builder, JSON or a file. Raises WorkflowError when it is none."""
    if isinstance(document, Workflow):
        return document
    if isinstance(document, Graph):
        return document.workflow()
    if isinstance(document, Path):
        return Workflow.load(document)
    return Workflow.from_json(document)
