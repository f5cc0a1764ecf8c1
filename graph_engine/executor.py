"""The loop around the scheduler: looks nodes up, runs them, takes in what they made, and tells what happens."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from graph_engine.attempt import Outcome, Reason, attempt, attempt_async, explain
from graph_engine.cache import Cache
from graph_engine.call import blocked, collect
from graph_engine.context import Context, GraphView
from graph_engine.device import Device
from graph_engine.digests import Digests
from graph_engine.errors import NodeError
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
from graph_engine.expansion import Expansion
from graph_engine.files import Folders
from graph_engine.growth import Grown, grow, put_together
from graph_engine.keys import identify
from graph_engine.lookup import Files, Lookup, NeedInputs, NeedValues
from graph_engine.plan import Plan, eager_sources
from graph_engine.record import Blocked, Record
from graph_engine.registry import Registry
from graph_engine.runner.aside import Aside
from graph_engine.scheduler import Scheduler
from graph_engine.spec import NodeSpec
from graph_engine.stream import Cancellation, Progress, Stream
from graph_engine.task import RunningGraph, Task
from graph_engine.walk import storages, summary
from graph_engine.workflow import Workflow

__all__ = ["Execution", "Finished", "House", "Pause"]

Pause = Callable[[Task, tuple[Any, ...] | None, NodeFailed | None], None]  # a node, its new outputs, or why there are none

_CHEAP = 0.002  # seconds below which handing a node to another thread costs more than it saves


@dataclass
class House:
    """What the runs of one engine share."""

    registry: Registry
    device: Device
    cache: Cache
    folders: Folders | None
    digests: Digests
    debug: bool = False
    seconds: dict[str, float] = field(default_factory=dict)  # by node type, how long it took last
    device_lock: threading.Lock = field(default_factory=threading.Lock)  # one node at a time works on the device


@dataclass
class Finished:
    """How a run ended, and where its results are."""

    status: Literal["success", "error", "cancelled"]
    failures: tuple[NodeFailed, ...]
    executed: tuple[str, ...]
    cached: tuple[str, ...]
    artifacts: tuple[Artifact, ...]
    seconds: float
    types: dict[str, NodeSpec]  # of the nodes that finished
    keys: dict[str, bytes]
    values: dict[str, tuple[Any, ...]]  # of the nodes that were asked for


class Execution:
    """One run of a valid workflow. `held` are nodes whose values must be at hand in the end; `pause` is called after each node."""

    def __init__(
        self,
        house: House,
        workflow: Workflow,
        wanted: Iterable[str],
        stream: Stream,
        cancellation: Cancellation,
        *,
        held: Iterable[str] = (),
        document: Callable[[], Mapping[str, Any]] = dict,
        extra: Mapping[str, Any] | None = None,
        pause: Pause | None = None,
    ) -> None:
        self._house, self._workflow, self._wanted = house, workflow, dict.fromkeys(wanted)
        self._stream, self._cancellation, self._pause = stream, cancellation, pause
        self._document, self._extra = document, extra
        self._cache, self._device = house.cache, house.device
        self._held, self._values = set(held), dict[str, tuple[Any, ...]]()
        self._tasks: dict[str, Task] = {}
        self._makers: dict[str, Task] = {}
        files = Files(house.folders, house.digests)
        self._graph = RunningGraph(workflow.nodes, house.registry.specs, files.digest)
        self._plan = Plan(self._sources)
        self._scheduler = Scheduler(self._present)
        self._lookup = Lookup(self._cache, files, self._graph, self._at_hand)
        self._aside: Aside[Outcome] = Aside(Outcome(error=NodeError("cancelled"), reason="cancelled"))
        self._inflight: dict[bytes, Task] = {}
        self._pinned: set[str] = set()
        self._generation = 0
        self._places: dict[str, str] = {}
        self._executed: dict[str, None] = {}
        self._cached: dict[str, None] = {}
        self._failures: list[NodeFailed] = []
        self._artifacts: dict[str, Artifact] = {}

    def run(self) -> Finished:
        """Run until nothing is left to do. Raises only what is a mistake of the engine; a node that fails is in the result."""
        began = time.perf_counter()
        self._cancellation.wake = self._aside.wake
        message = ""
        status: Literal["success", "error", "cancelled"] = "error"
        try:
            try:
                self._include(self._wanted)
                order = self._plan.order
                self._stream.emit(RunStarted, nodes=tuple(order), titles={id: self._tasks[id].title for id in order})
                stopped = self._loop()
            finally:
                self._aside.close()
                for id in self._pinned:
                    self._cache.unpin(self._tasks[id].key)
            status = "cancelled" if stopped else "error" if self._failures else "success"
            message = "; ".join(failure.message for failure in self._failures[:3])
            self._cache.flush()
            if not self._cache.keeps:
                self._cache.clear()
        except BaseException as error:
            message = f"{type(error).__name__}: {error}"
            raise
        finally:
            self._end(status, time.perf_counter() - began, message)
        return Finished(
            status=status,
            failures=tuple(self._failures),
            executed=tuple(self._executed),
            cached=tuple(self._cached),
            artifacts=tuple(self._artifacts.values()),
            seconds=time.perf_counter() - began,
            types={id: task.spec for id, task in self._tasks.items() if task.record is not None},
            keys={id: task.key for id, task in self._tasks.items() if task.record is not None},
            values=self._values,
        )

    def _loop(self) -> bool:
        """Whether it was cancelled before everything was done."""
        scheduler, aside = self._scheduler, self._aside
        stopped = False
        while True:
            if self._cancellation and not stopped:
                if scheduler.finished:
                    return False
                stopped = True
                scheduler.cancel()
                aside.cancel()
            if len(aside):
                self._take_in(wait=False)
            if not stopped:
                if (id := scheduler.take_ripe()) is not None:
                    self._resolve(self._tasks[id])
                    continue
                if (id := scheduler.take_ready()) is not None:
                    self._launch(self._tasks[id])
                    continue
            if len(aside):
                self._take_in(wait=True)
            elif scheduler.finished:
                return stopped
            elif not stopped:
                for id in scheduler.unfinished()[:1]:
                    self._fail(self._tasks[id], NodeError("this node and others wait for each other"))

    def _take_in(self, *, wait: bool) -> None:
        while (done := self._aside.take(wait=wait)) is not None:
            self._finish(self._tasks[done[0]], done[1])
            wait = False

    # what is to be done

    def _sources(self, id: str) -> list[str]:
        entry = self._graph[id]
        return eager_sources(entry, self._graph.specs[entry.class_type])

    def _include(self, wanted: Iterable[str], written: Iterable[str] = ()) -> list[str]:
        """Bring nodes and what they need into the run; the new ones.

        Those of a later call go first, so that what was begun is finished; within a call those go in the order that they are `written` in.
        """
        new = self._plan.include(wanted)
        places = {id: place for place, id in enumerate(written)}
        for position, id in enumerate(new):
            place = places.get(id, position)
            entry = self._graph[id]
            cls = self._house.registry[entry.class_type]
            task = self._tasks[id] = Task(id, entry, cls, self._graph.source, self._makers.get(id))
            beside = task.asynchronous or _overlaps(task)
            needs = dict.fromkeys(source for source, _ in task.links.values())
            self._scheduler.add(id, needs, (not beside, -self._generation, place))
        self._generation += 1
        return new

    def _present(self, id: str) -> bool:
        task = self._tasks[id]
        return not task.identities or self._cache.present(task.key)

    def _identity(self, id: str, output: int) -> bytes:
        return self._tasks[id].identities[output]

    def _resolve(self, task: Task) -> None:
        """Find the key of a node, and by it whether the node must run."""
        try:
            key = self._lookup.key(task, self._identity)
            if (twin := self._inflight.get(key)) is not None:
                self._await_twin(task, twin)
                return
        except NeedInputs as need:
            self._pull(task, need.names)
            return
        except NeedValues as need:
            self._scheduler.need_values(task.id, need.names)
            self._hold_and_release()
            return
        except Exception as error:  # a broken `wants`, or an expansion into itself: the node's failure
            self._fail(task, error)
            return
        task.key = key
        record = self._cache.lookup(key) if task.spec.cache else None
        if record is not None and record.blocked and self._complain(task, record.reason):
            return
        if record is not None and self._stands(record) and self._kept(task):
            task.record, task.identities = record, record.identities
            self._scheduler.hit(task.id)
            self._hold_and_release()
            self._tell_cached(task, record)
        else:
            self._inflight[key] = task
            self._scheduler.miss(task.id)
            self._hold_and_release()

    def _pull(self, task: Task, names: list[str]) -> None:
        sources = dict.fromkeys(task.lazy[name][0] for name in names)
        try:
            self._include(sources)
        except NodeError as error:
            self._fail(task, error)
            return
        for name in names:
            task.links[name] = task.lazy.pop(name)
        self._plan.link(sources, task.id)
        self._scheduler.need(task.id, sources)
        self._hold_and_release()

    def _await_twin(self, task: Task, twin: Task) -> None:
        """Another node is just computing the same."""
        maker = task.maker
        while maker is not None:
            if maker is twin:
                raise NodeError(f"node {twin.id} expands into itself with the same inputs")
            maker = maker.maker
        self._scheduler.need(task.id, [twin.id])
        self._hold_and_release()

    def _stands(self, record: Record) -> bool:
        """Whether the files that a node wrote are still where a run now would put them."""
        for artifact in record.artifacts:
            if artifact.type not in self._places:
                folders = self._house.folders
                place = "" if folders is None else str(folders.places(artifact.type)[0].resolve())
                self._places[artifact.type] = place
            path = Path(self._places[artifact.type], artifact.subfolder, artifact.filename)
            if str(path) != artifact.path or not path.is_file():
                return False
        return True

    def _kept(self, task: Task) -> bool:
        """Whether a hit will do: a node whose values are asked for in the end must still have them."""
        if task.id not in self._held:
            return True
        value = self._cache.get(task.key)
        if value is None:
            return False
        self._values[task.id] = value
        return True

    def _launch(self, task: Task) -> None:
        if task.expanded is not None:
            self._assemble(task)
            return
        values = self._gather(task)
        if values is None:
            return
        task.began = time.perf_counter()
        if (given := blocked(values)) is not None:
            if not self._complain(task, given.reason):
                self._done(task, (given,) * len(task.spec.outputs), blocked=given)
            return
        self._stream.emit(NodeStarted, node=task.id, parent=task.parent)
        debug, device = self._house.debug, self._device
        if task.asynchronous:
            context = partial(self._context, task, lambda: device)
            self._aside.submit_async(task.id, attempt_async(task, values, context, device, debug=debug))
        elif _overlaps(task) and self._house.seconds.get(task.spec.type, 1.0) > _CHEAP:
            self._aside.submit(task.id, partial(self._attempt_aside, task, values))
        else:
            context = partial(self._context, task, lambda: device)
            with self._house.device_lock:
                outcome = attempt(task, values, context, device, debug=debug)
            del values
            self._finish(task, outcome)

    def _attempt_aside(self, task: Task, values: dict[str, Any]) -> Outcome:
        """Beside the device's work, unless the node asks for the device: then it has its turn."""
        lock, held = self._house.device_lock, False

        def exclusive() -> Device:
            nonlocal held
            while not held:
                self._cancellation.check()
                held = lock.acquire(timeout=0.05)
            return self._device

        try:
            return attempt(task, values, partial(self._context, task, exclusive), self._device, debug=self._house.debug)
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

    # values

    def _at_hand(self, task: Task, names: list[str]) -> dict[str, Any]:
        values = {**task.literals, **{name: constant.value for name, constant in task.constants.items()}}
        missing = []
        for name in names:
            source, output = task.links[name]
            found = self._cache.get(self._tasks[source].key)
            if found is None:
                missing.append(source)
            else:
                values[name] = found[output]
        if missing:
            raise NeedValues(missing)
        return values

    def _gather(self, task: Task) -> dict[str, Any] | None:
        """The inputs of a node about to run; None when one of them turns out to be gone and must be made again first."""
        try:
            return self._at_hand(task, list(task.links))
        except NeedValues as need:
            self._lose(need.names, task)
            return None

    def _lose(self, sources: Iterable[str], reader: Task) -> None:
        for source in sources:
            self._cache.discard(self._tasks[source].key)
            self._scheduler.lost(source, reader.id)
        self._hold_and_release()

    def _hold_and_release(self) -> None:
        """Pin values that became needed, and let go of those that nobody will read again."""
        for id, needed in self._scheduler.changes():
            if needed and id not in self._pinned:
                self._pinned.add(id)
                self._cache.pin(self._tasks[id].key)
            elif not needed and id in self._pinned:
                self._pinned.remove(id)
                self._cache.unpin(self._tasks[id].key)

    # what came of it

    def _finish(self, task: Task, outcome: Outcome) -> None:
        ctx = outcome.context
        task.own_seconds = self._house.seconds[task.spec.type] = outcome.seconds
        for name in outcome.mutated:
            if name in task.links:
                self._cache.discard_sharing(self._tasks[task.links[name][0]].key)
        if outcome.error is not None or ctx is None:
            error = outcome.error or NodeError("the node gave nothing")
            self._fail(task, error, outcome.reason, outcome.residents)
            return
        if task.looked:
            key, task.key = task.key, self._lookup.learn(task)
            self._inflight[task.key] = self._inflight.pop(key, task)
        if any(isinstance(each, Expansion) for each in outcome.returned):
            self._expand(task, outcome, ctx)
            return
        returned = [each for each in outcome.returned if isinstance(each, tuple)]
        outputs = collect(task.spec, returned) if outcome.mapped else returned[0]
        self._done(task, outputs, tuple(ctx.artifacts), ctx.ui)

    def _expand(self, task: Task, outcome: Outcome, ctx: Context) -> None:
        try:
            grown = grow(task, outcome, ctx, self._graph, self._makers)
            new = self._include(grown.needs, grown.nodes)
        except NodeError as error:
            self._fail(task, error)
            return
        grown.inside = new
        task.expanded = grown
        titles = {id: self._graph[id].label for id in grown.nodes}
        self._stream.emit(NodeExpanded, node=task.id, parent=task.parent, nodes=tuple(grown.nodes), titles=titles)
        self._plan.link(grown.needs, task.id)
        self._scheduler.expand(task.id, grown.needs)
        self._hold_and_release()

    def _assemble(self, task: Task) -> None:
        grown = task.expanded
        assert isinstance(grown, Grown)
        sources = {id: self._cache.get(self._tasks[id].key) for id in grown.sources}
        if gone := [id for id, value in sources.items() if value is None]:
            self._lose(gone, task)
            return
        outputs, identities = put_together(task, grown, sources, self._identity)
        inside = [record for id in grown.inside if (record := self._tasks[id].record) is not None]
        task.own_seconds += sum(record.seconds for record in inside)
        within = tuple(artifact for record in inside for artifact in record.artifacts)
        self._done(task, outputs, grown.artifacts, grown.ui, identities=identities, within=within)

    def _done(
        self,
        task: Task,
        outputs: tuple[Any, ...],
        artifacts: tuple[Artifact, ...] = (),
        ui: dict[str, Any] | None = None,
        *,
        identities: list[bytes] | None = None,
        within: tuple[Artifact, ...] = (),
        blocked: Blocked | None = None,
    ) -> None:
        """Take in the outputs of a node; `within` are files of the nodes that it was expanded to."""
        ui = ui or {}
        held = storages(outputs)
        size = sum(held[0].values()) + held[1]
        try:
            known = identify(task.key, outputs, size, self._device, identities)
        except Exception as error:  # a tensor that cannot be read
            self._fail(task, error)
            return
        record = Record(
            known,
            task.own_seconds,
            size,
            (*artifacts, *within),
            ui,
            blocked=blocked is not None,
            reason="" if blocked is None else blocked.reason,
        )
        task.record, task.identities = record, known
        self._cache.put(task.key, outputs, record, title=task.title, transient=not task.spec.cache, held=held)
        self._inflight.pop(task.key, None)
        if blocked is None:
            self._executed[task.id] = None
            self._cached.pop(task.id, None)
        if task.id in self._wanted:
            self._values[task.id] = outputs
        for artifact in artifacts:
            self._artifacts[artifact.path] = artifact
        if blocked is None:
            spent = time.perf_counter() - task.began
            self._stream.emit(
                NodeDone, node=task.id, parent=task.parent, seconds=spent, bytes=size, artifacts=artifacts, ui=ui
            )
        self._scheduler.done(task.id)
        self._hold_and_release()
        if self._pause is not None and blocked is None:
            self._pause(task, outputs, None)
        self._cache.unpin(task.key)

    def _tell_cached(self, task: Task, record: Record) -> None:
        if record.blocked:
            return
        self._cached[task.id] = None
        for artifact in record.artifacts:
            self._artifacts[artifact.path] = artifact
        self._stream.emit(
            NodeCached, node=task.id, parent=task.parent, artifacts=record.artifacts, ui=record.ui
        )
        if self._pause is not None:
            self._pause(task, None, None)

    def _complain(self, task: Task, reason: str) -> bool:
        """Fail a node without a value that was asked for by name; one that is merely in the way is passed over in silence."""
        if task.id not in self._held:
            return False
        self._fail(task, NodeError(reason or "an input of this node has no value, so it did not run"))
        return True

    def _fail(
        self, task: Task, error: BaseException, reason: Reason = "error", residents: Iterable[tuple[str, int]] = ()
    ) -> None:
        if reason == "cancelled" and not self._cancellation:
            reason = "error"  # it says so itself, but nobody asked it to
        self._inflight.pop(task.key, None)
        message, trace = explain(error)
        event = self._stream.make(
            NodeFailed,
            node=task.id,
            parent=task.parent,
            reason=reason,
            title=task.title,
            class_type=task.spec.type,
            message=message,
            exception=type(error).__name__,
            traceback=trace,
            inputs=self._summaries(task),
            residents=tuple(Resident(owner=owner, place=self._device.name, bytes=size) for owner, size in residents),
        )
        error.__traceback__ = None  # its frames hold tensors
        if reason != "cancelled":
            self._failures.append(event)
        self._scheduler.fail(task.id)
        self._hold_and_release()
        if self._pause is not None:
            self._pause(task, None, event)

    def _summaries(self, task: Task) -> dict[str, str]:
        shown = {name: summary(value) for name, value in task.literals.items()}
        shown |= {name: summary(constant.value) for name, constant in task.constants.items()}
        for name, (source, output) in task.links.items():
            made = self._tasks.get(source)
            value = self._cache.peek(made.key) if made is not None and made.record is not None else None
            shown[name] = f"from {source}" if value is None else summary(value[output])
        return shown

    def _end(self, status: Literal["success", "error", "cancelled"], seconds: float, message: str) -> None:
        stream = self._stream
        if stream.heard:
            name, rows = self._device.name, self._device.residents()
            residents = tuple(Resident(owner=owner, place=name, bytes=size) for owner, size in rows)
            used = sum(size for _, size in rows)
            stream.emit(MemoryReport, device=name, budget=self._device.budget, used=used, residents=residents)
        stream.emit(
            RunDone,
            status=status,
            seconds=seconds,
            executed=len(self._executed),
            cached=len(self._cached),
            artifacts=tuple(self._artifacts.values()),
            message=message,
        )


def _overlaps(task: Task) -> bool:
    """Whether a node only has effects, such as saving, and may work beside the device."""
    return task.spec.output and not task.spec.outputs
