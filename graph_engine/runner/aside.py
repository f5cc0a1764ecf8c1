"""Work that overlaps the device's: saving and encoding in a few threads, async nodes on an event loop. Started when first needed."""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

__all__ = ["Aside"]

T = TypeVar("T")


class Aside(Generic[T]):
    """Runs work beside the caller's thread; finished work comes out of `take`, as (name, value).

    Work that was cancelled before it began gives the value `cancelled`.
    """

    def __init__(self, cancelled: T, threads: int = 4) -> None:
        self._cancelled, self._threads = cancelled, threads
        self._done: queue.SimpleQueue[tuple[str, T] | None] = queue.SimpleQueue()
        self._pool: ThreadPoolExecutor | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread: threading.Thread | None = None
        self._running: dict[str, Future[T]] = {}

    def __len__(self) -> int:
        return len(self._running)

    def submit(self, name: str, work: Callable[[], T]) -> None:
        """Run work that never raises in a thread."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="latentgraph aside")
        context = contextvars.copy_context()
        self._started(name, self._pool.submit(context.run, work))

    def submit_async(self, name: str, work: Coroutine[Any, Any, T]) -> None:
        """Await work that never raises on the event loop."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            context = contextvars.copy_context()
            self._loop_thread = threading.Thread(
                target=context.run, args=(self._loop.run_forever,), name="latentgraph async nodes", daemon=True
            )
            self._loop_thread.start()
        self._started(name, asyncio.run_coroutine_threadsafe(work, self._loop))

    def take(self, *, wait: bool) -> tuple[str, T] | None:
        """Something that has finished; None when there is nothing yet, or when `wake` was called."""
        try:
            done = self._done.get(block=wait)
        except queue.Empty:
            return None
        if done is not None:
            del self._running[done[0]]
        return done

    def wake(self) -> None:
        """Let a waiting `take` return; from any thread."""
        self._done.put(None)

    def cancel(self) -> None:
        """Cancel what is awaited on the event loop; threads end by themselves."""
        loop = self._loop
        if loop is not None:
            loop.call_soon_threadsafe(lambda: [task.cancel() for task in asyncio.all_tasks(loop)])

    def close(self) -> None:
        """Wait for all that runs, and end the threads."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        if self._loop is not None and self._loop_thread is not None:
            asyncio.run_coroutine_threadsafe(_drain(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._loop_thread.join()
            self._loop.close()

    def _started(self, name: str, future: Future[T]) -> None:
        self._running[name] = future
        future.add_done_callback(lambda done: self._done.put((name, self._cancelled if done.cancelled() else done.result())))


async def _drain() -> None:
    """Cancel and await what nodes left behind on the loop."""
    mine = asyncio.current_task()
    rest = [task for task in asyncio.all_tasks() if task is not mine]
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()
    await asyncio.get_running_loop().shutdown_default_executor()
