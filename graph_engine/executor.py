"""The loop around the scheduler: looks nodes up, runs them, and takes in what they made."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from graph_engine.attempt import Outcome, Reason
from graph_engine.call import blocked, collect
from graph_engine.context import Context
from graph_engine.errors import NodeError
from graph_engine.events import Artifact
from graph_engine.expansion import Expansion
from graph_engine.growth import grow, put_together
from graph_engine.house import Finished, House, Status
from graph_engine.keys import identify
from graph_engine.launch import Launch
from graph_engine.lookup import Files, Lookup, NeedInputs, NeedValues
from graph_engine.plan import Plan, eager_sources
from graph_engine.record import Blocked, Record
from graph_engine.report import Pause, Report
from graph_engine.scheduler import State
from graph_engine.stream import Cancellation, Stream
from graph_engine.task import RunningGraph, Task
from graph_engine.values import Values
from graph_engine.walk import storages
from graph_engine.workflow import Workflow

__all__ = ["Execution"]


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
        self._house, self._wanted, self._held = house, dict.fromkeys(wanted), frozenset(held)
        self._cancellation = cancellation
        self._cache, self._device = house.cache, house.device
        self._report = Report(stream, house.device, pause)
        self._tasks: dict[str, Task] = {}
        self._makers: dict[str, Task] = {}  # expanded nodes, by the nodes they stand for
        self._kept: dict[str, tuple[Any, ...]] = {}
        files = Files(house.folders, house.digests)
        self._graph = RunningGraph(workflow.nodes, house.registry.specs, files.digest)
        self._plan = Plan(self._sources)
        self._values = Values(self._cache, self._tasks)
        self._scheduler = self._values.scheduler
        self._lookup = Lookup(self._cache, files, self._graph, self._values.at_hand)
        self._launch = Launch(house, stream, cancellation, self._graph, document, extra)
        self._aside = self._launch.aside
        self._inflight: dict[bytes, Task] = {}  # what is just being computed
        self._generation = 0
        self._places: dict[str, str] = {}

    def run(self) -> Finished:
        """Run until nothing is left to do. Raises only what is a mistake of the engine; a node that fails is in the result."""
        began = time.perf_counter()
        report, message = self._report, ""
        status: Status = "error"
        try:
            try:
                self._include(self._wanted)
                report.begun(self._plan.order, self._graph.titles)
                stopped = self._loop()
            finally:
                self._aside.close()
                self._values.release()
            status = "cancelled" if stopped else "error" if report.failures else "success"
            message = "; ".join(failure.message for failure in report.failures[:3])
            self._cache.flush()
            if not self._cache.keeps:
                self._cache.clear()
        except BaseException as error:
            message = f"{type(error).__name__}: {error}"
            raise
        finally:
            seconds = time.perf_counter() - began
            report.end(status, seconds, message)
            settled = {id: task for id, task in self._tasks.items() if task.record is not None}
            self._tasks.clear()  # they know the run, and it them: a circle that would keep tensors alive
            self._makers.clear()
        return Finished(
            status=status,
            failures=tuple(report.failures),
            executed=tuple(report.executed),
            cached=tuple(report.cached),
            artifacts=tuple(report.artifacts.values()),
            seconds=seconds,
            types={id: task.spec for id, task in settled.items()},
            keys={id: task.key for id, task in settled.items()},
            values=self._kept,
        )

    def _loop(self) -> bool:
        """Whether it was cancelled before everything was done."""
        scheduler, aside = self._scheduler, self._aside
        stopped = False
        while True:
            if self._cancellation and not stopped:
                if scheduler.finished:
                    return self._report.interrupted
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
                    self._start(self._tasks[id])
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
            entry = self._graph[id]
            cls = self._house.registry[entry.class_type]
            task = self._tasks[id] = Task(id, entry, cls, self._graph.source, self._makers.get(id))
            beside = task.asynchronous or task.overlaps
            needs = dict.fromkeys(source for source, _ in task.links.values())
            self._scheduler.add(id, needs, (not beside, -self._generation, places.get(id, position)))
        self._generation += 1
        return new

    def _resolve(self, task: Task) -> None:
        """Find the key of a node, and by it whether the node must run."""
        try:
            key = self._lookup.key(task, self._values.identity)
            if (twin := self._inflight.get(key)) is not None and self._await_twin(task, twin):
                return
        except NeedInputs as need:
            self._pull(task, need.names)
            return
        except NeedValues as need:
            self._scheduler.need_values(task.id, need.sources)
            self._values.hold_and_release()
            return
        except Exception as error:  # a broken `wants`, or an expansion into itself: the node's failure
            self._fail(task, error)
            return
        task.key = key
        record = self._cache.lookup(key) if task.spec.cache else None
        if record is not None and record.blocked and self._complain(task, record.reason):
            return
        if record is not None and self._stands(record) and self._keep(task):
            task.record, task.identities = record, record.identities
            self._scheduler.hit(task.id)
            self._values.hold_and_release()
            self._report.hit(task, record)
        else:
            self._inflight[key] = task
            self._scheduler.miss(task.id)
            self._values.hold_and_release()

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
        self._values.hold_and_release()

    def _await_twin(self, task: Task, twin: Task) -> bool:
        """Wait for another node that is about to compute the same, unless that one still waits, perhaps for this."""
        maker = task.maker
        while maker is not None:
            if maker is twin:
                raise NodeError(f"node {twin.id} expands into itself with the same inputs")
            maker = maker.maker
        if self._scheduler.state(twin.id) not in (State.READY, State.RUNNING):
            return False
        self._scheduler.need(task.id, [twin.id])
        self._values.hold_and_release()
        return True

    def _stands(self, record: Record) -> bool:
        """Whether the files that a node wrote are still where a run now would put them."""
        folders = self._house.folders
        for artifact in record.artifacts:
            if artifact.type not in self._places:
                self._places[artifact.type] = "" if folders is None else str(folders.places(artifact.type)[0].resolve())
            path = Path(self._places[artifact.type], artifact.subfolder, artifact.filename)
            if str(path) != artifact.path or not path.is_file():
                return False
        return True

    def _keep(self, task: Task) -> bool:
        """Whether a hit will do: a node whose values are asked for in the end must still have them."""
        if task.id in self._held:
            value = self._cache.get(task.key)
            if value is None:
                return False
            self._kept[task.id] = value
        return True

    def _start(self, task: Task) -> None:
        if task.expanded is not None:
            self._assemble(task)
            return
        values = self._values.gather(task)
        if values is None:
            return
        task.began = time.perf_counter()
        if (given := blocked(values)) is not None:
            if not self._complain(task, given.reason):
                self._done(task, (given,) * len(task.spec.outputs), blocked=given)
            return
        self._report.started(task)
        outcome = self._launch(task, values)
        if outcome is not None:
            del values
            self._finish(task, outcome)

    # what came of it

    def _finish(self, task: Task, outcome: Outcome) -> None:
        ctx = outcome.context
        task.own_seconds = outcome.seconds
        self._house.timed(task, outcome.seconds)
        self._values.spoilt(task, outcome.mutated)
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
            grown.inside = self._include(grown.needs, grown.nodes)
        except NodeError as error:
            self._fail(task, error)
            return
        task.expanded = grown
        self._report.expanded(task, self._graph.titles(grown.nodes))
        self._plan.link(grown.needs, task.id)
        self._scheduler.expand(task.id, grown.needs)
        self._values.hold_and_release()

    def _assemble(self, task: Task) -> None:
        """Put the outputs of an expanded node together, now that those it stands for have theirs."""
        grown = task.expanded
        assert grown is not None
        sources = self._values.outputs(grown.sources, task)
        if sources is None:
            return
        outputs, identities = put_together(task, grown, sources, self._values.identity)
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
        held = storages(outputs)
        size = sum(held[0].values()) + held[1]
        try:
            known = identify(task.key, outputs, size, self._device, identities)
        except Exception as error:  # a tensor that cannot be read
            self._fail(task, error)
            return
        reason = "" if blocked is None else blocked.reason
        record = Record(known, task.own_seconds, size, artifacts + within, ui or {}, blocked is not None, reason)
        task.record, task.identities = record, known
        if task.id in self._wanted:
            self._kept[task.id] = outputs
        self._cache.put(task.key, outputs, record, title=task.title, transient=not task.spec.cache, held=held)
        self._inflight.pop(task.key, None)
        self._report.ran(task, record, artifacts)
        self._scheduler.done(task.id)
        self._values.hold_and_release()
        self._report.pause(task, outputs)
        self._cache.unpin(task.key)

    def _complain(self, task: Task, reason: str) -> bool:
        """Fail a node without a value that was asked for by name; one that is merely in the way is passed over in silence."""
        if task.id not in self._held:
            return False
        self._fail(task, NodeError(reason or "an input of this node has no value, so it did not run"))
        return True

    def _fail(self, task: Task, error: BaseException, reason: Reason = "error", residents: Iterable[tuple[str, int]] = ()) -> None:
        if reason == "cancelled" and not self._cancellation:
            reason = "error"  # it says so itself, but nobody asked it to
        self._inflight.pop(task.key, None)
        self._scheduler.fail(task.id)
        self._report.failed(task, error, reason, self._values.summaries(task), residents)
        error.__traceback__ = None  # its frames hold tensors
        self._values.hold_and_release()
