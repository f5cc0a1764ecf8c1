"""The engine: one device, one cache, and the ways to run a workflow on them."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Collection, Generator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from graph_engine.cache import Cache
from graph_engine.device import Device, host_memory, open_device
from graph_engine.digests import Digests
from graph_engine.errors import GraphError, WorkflowError
from graph_engine.events import Event, NodeFailed
from graph_engine.files import Folders
from graph_engine.house import House
from graph_engine.job import Document, Job, read
from graph_engine.registry import Registry
from graph_engine.result import Result, Step
from graph_engine.runner.local import LocalRun, inside, running
from graph_engine.spec import Problem
from graph_engine.store import Store
from graph_engine.stream import Cancellation
from graph_engine.task import Task
from graph_engine.validate import objections

__all__ = ["Engine", "Result", "Step"]

E = TypeVar("E")

_DISK = 20 << 30  # bytes of results kept in a cache folder


class Engine:
    """Runs workflows on one device, one after another, and remembers their results.

    Files are looked for in `folders`, by default those below the current one. `cache_bytes` is what kept results may hold in memory (on the
    device, and again on the host; 0: nothing is kept once it is not needed, None: what the device's budget allows). With `cache_dir` they
    survive the process, up to `disk_bytes`. With `debug`, a node that writes into its inputs fails.
    """

    def __init__(
        self,
        registry: Registry | None = None,
        *,
        device: str | Device = "auto",
        folders: Folders | None = None,
        cache_dir: str | Path | None = None,
        cache_bytes: int | None = None,
        disk_bytes: int = _DISK,
        debug: bool = False,
    ) -> None:
        self._registry, self._device, self.debug = registry, device, debug
        self.folders = Folders(Path.cwd()) if folders is None else folders
        self._cache_dir = None if cache_dir is None else Path(cache_dir)
        self._cache_bytes, self._disk_bytes = cache_bytes, disk_bytes
        self._house: House | None = None
        self._opening = threading.RLock()
        self._turn = threading.Lock()  # one run at a time
        self._idle = threading.Condition()
        self._runs: dict[str, Cancellation] = {}
        self._resources = contextlib.ExitStack()
        weakref.finalize(self, self._resources.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what runs, wait for it, and let go of memory and files; what is kept on disk stays. A later run opens everything again."""
        self._refuse_inside()
        with self._idle:
            for cancellation in self._runs.values():
                cancellation.set()
            self._idle.wait_for(lambda: not self._runs)
        with self._opening:
            self._house = None
            self._resources.close()

    @property
    def registry(self) -> Registry:
        """The node classes; those of the installed packages are imported when first asked for."""
        with self._opening:
            if self._registry is None:
                self._registry = Registry.discover()
            return self._registry

    @property
    def device(self) -> Device:
        """The device, opened when first asked for."""
        return self._open().device

    @property
    def cache(self) -> Cache:
        """The results that are remembered."""
        return self._open().cache

    def run(
        self,
        workflow: Document,
        *,
        wanted: Collection[str] | None = None,
        on_event: Callable[[Event], None] | None = None,
        extra: Mapping[str, Any] | None = None,
        previews: bool = False,
        run: str | None = None,
    ) -> Result:
        """Run a workflow: its nodes with effects, or the `wanted` ones, given by id or title.

        Events go to `on_event` in this thread; `extra` is for nodes that write it into files. Raises WorkflowError, with every problem,
        before anything runs; a node that fails is in the result. Ctrl-C cancels the run, waits until it has unwound, and is raised on.
        """
        job = Job.of(self._open(), workflow, wanted, extra, previews=previews, run=run)

        def work(cancellation: Cancellation, deliver: Callable[[Event], None]) -> Result:
            return job(self._turn, cancellation, None if on_event is None else deliver)

        with self._started(job.run, work) as local:
            try:
                _hear(local.items(), on_event)
            except BaseException:
                local.cancel()
                _hear(local.items(), on_event)  # the rest of the story, up to the end of the run
                raise
            return local.result()

    def perform(
        self,
        workflow: Document,
        *,
        wanted: Collection[str] | None = None,
        on_event: Callable[[Event], None] | None = None,
        extra: Mapping[str, Any] | None = None,
        previews: bool = False,
        run: str | None = None,
        cancellation: Cancellation | None = None,
    ) -> Result:
        """`run` in the calling thread itself. Ctrl-C does not cancel it, `cancellation` does at any time.

        The fastest way where the calling thread computes on the processor too: each thread that does has workers of its own (OpenMP's),
        and once they outnumber the cores they wait for each other asleep. Small networks then take two or three times as long.
        """
        self._refuse_inside()
        wish = Cancellation() if cancellation is None else cancellation
        job = Job.of(self._open(), workflow, wanted, extra, previews=previews, run=run)
        with self._entered(job.run, wish), running(self):
            return job(self._turn, wish, on_event)

    def check(self, workflow: Document, *, wanted: Collection[str] | None = None) -> list[Problem]:
        """What would stop a run of this, with the say of the classes; empty when nothing does."""
        house = self._open()
        try:
            document = read(workflow)
        except WorkflowError as error:
            return list(error.problems)
        return objections(document, house.registry.specs, house.folders, wanted=wanted, registry=house.registry)

    def memory(self) -> list[tuple[str, int]]:
        """Who holds how many bytes of the device's memory, at this moment."""
        return self._open().device.residents()

    def free(self, *, models: bool = False, results: bool = False) -> int:
        """Between two runs let go of the weights, or of the remembered results in memory (those on disk stay); bytes that were freed."""
        self._refuse_inside()
        house = self._open()
        with self._turn:
            before = sum(size for _, size in house.device.residents())
            if results:
                house.cache.clear()
            if models:
                house.device.unload()
            return before - sum(size for _, size in house.device.residents())

    def stream(
        self,
        workflow: Document,
        *,
        wanted: Collection[str] | None = None,
        extra: Mapping[str, Any] | None = None,
        previews: bool = False,
        run: str | None = None,
    ) -> Generator[Event, None, Result]:
        """Run a workflow and give its events as they come; the generator returns the result. Closing it cancels the run."""
        return self._stream(Job.of(self._open(), workflow, wanted, extra, previews=previews, run=run))

    def _stream(self, job: Job) -> Generator[Event, None, Result]:
        with self._started(job.run, self._work(job)) as local:
            yield from local.items()
            return local.result()

    async def astream(
        self,
        workflow: Document,
        *,
        wanted: Collection[str] | None = None,
        extra: Mapping[str, Any] | None = None,
        previews: bool = False,
        run: str | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Run a workflow beside a running event loop and give its events as they come. Leaving the iteration cancels the run."""
        job = await asyncio.to_thread(Job.of, self._open(), workflow, wanted, extra, previews=previews, run=run)
        async with aclosing(self._astream(job, [])) as events:
            async for event in events:
                yield event

    async def arun(
        self,
        workflow: Document,
        *,
        wanted: Collection[str] | None = None,
        on_event: Callable[[Event], None] | None = None,
        extra: Mapping[str, Any] | None = None,
        previews: bool = False,
        run: str | None = None,
    ) -> Result:
        """`run` beside a running event loop, which goes on meanwhile; cancelling the task cancels the run."""
        job = await asyncio.to_thread(Job.of, self._open(), workflow, wanted, extra, previews=previews, run=run)
        results: list[Result] = []
        async with aclosing(self._astream(job, results)) as events:
            async for event in events:
                if on_event is not None:
                    on_event(event)
        return results[0]

    async def _astream(self, job: Job, results: list[Result]) -> AsyncGenerator[Event, None]:
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Event | None]()

        def deliver(event: Event | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed under the run
                loop.call_soon_threadsafe(events.put_nowait, event)

        with self._started(job.run, self._work(job), deliver) as local:
            try:
                while (event := await events.get()) is not None:
                    yield event
                results.append(local.result())
            finally:
                local.cancel()
                await asyncio.shield(asyncio.to_thread(local.join))

    def steps(
        self, workflow: Document, *, wanted: Collection[str] | None = None, extra: Mapping[str, Any] | None = None
    ) -> Generator[Step, None, Result]:
        """Run a workflow node by node: the run waits after every node until the next step is asked for. Returns the result."""
        return self._steps(Job.of(self._open(), workflow, wanted, extra))

    def _steps(self, job: Job) -> Generator[Step, None, Result]:
        go = threading.Semaphore(0)

        def work(cancellation: Cancellation, deliver: Callable[[Step], None]) -> Result:
            def pause(task: Task, outputs: tuple[Any, ...] | None, failure: NodeFailed | None) -> None:
                if cancellation:
                    return
                deliver(Step.of(task, outputs, failure, job.house.cache))
                self._turn.release()  # whoever looks at the step may run something else meanwhile
                try:
                    while not go.acquire(timeout=0.1) and not cancellation:
                        pass
                finally:
                    self._turn.acquire()

            return job(self._turn, cancellation, None, pause)

        with self._started(job.run, work) as local:
            for step in local.items():
                yield step
                go.release()
            return local.result()

    def cancel(self, run: str) -> bool:
        """Ask a run to stop, by id; whether there is such a run. It ends as soon as its nodes look."""
        with self._idle:
            cancellation = self._runs.get(run)
        if cancellation is None:
            return False
        cancellation.set()
        return True

    def _work(self, job: Job) -> Callable[[Cancellation, Callable[[Event], None]], Result]:
        return lambda cancellation, deliver: job(self._turn, cancellation, deliver)

    @contextmanager
    def _started(
        self,
        run: str,
        work: Callable[[Cancellation, Callable[[E], None]], Result],
        deliver: Callable[[E | None], None] | None = None,
    ) -> Iterator[LocalRun[E, Result]]:
        self._refuse_inside()
        local = LocalRun(run, self, work, deliver)
        with self._entered(run, local.cancellation), local:
            yield local

    @contextmanager
    def _entered(self, run: str, cancellation: Cancellation) -> Iterator[None]:
        with self._idle:
            if run in self._runs:
                raise GraphError(f"a run {run!r} is going on already")
            self._runs[run] = cancellation
        try:
            yield
        finally:
            with self._idle:
                del self._runs[run]
                self._idle.notify_all()

    def _refuse_inside(self) -> None:
        if inside(self):
            raise GraphError("a node cannot use the engine that runs it; let it return ctx.expand(...)")

    def _open(self) -> House:
        with self._opening:
            if self._house is None:
                if isinstance(self._device, str):
                    self._device = open_device(self._device)
                device, folder = self._device, self._cache_dir
                store = None
                digests = Digests(None if folder is None else folder / "digests.sqlite")
                self._resources.callback(digests.close)
                if folder is not None:
                    store = Store(folder, device, self._disk_bytes, _environment(device))
                    self._resources.callback(store.close)
                limit = device.budget if self._cache_bytes is None else self._cache_bytes
                host_limit = host_memory() // 4 if self._cache_bytes is None else self._cache_bytes
                cache = Cache(device, limit, host_limit, store)
                self._resources.callback(cache.close)
                self._house = House(self.registry, device, cache, self.folders, digests, self.debug)
            return self._house


def _hear(events: Iterator[Event], on_event: Callable[[Event], None] | None) -> None:
    for event in events:
        if on_event is not None:
            on_event(event)


def _environment(device: Device) -> str:
    try:
        version = importlib.metadata.version("latentgraph")
    except importlib.metadata.PackageNotFoundError:  # runs from its sources, not installed
        version = ""
    return f"latentgraph {version}, {device.environment}"
