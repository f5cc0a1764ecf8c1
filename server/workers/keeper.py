"""Keeps one worker process alive: starts it, reads what it prints, and starts another when it dies."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from server.workers.channel import Channel
from server.workers.mark import Mark, shared
from server.workers.roles import WorkerOptions, WorkerState

__all__ = ["Keeper", "epitaph"]

T = TypeVar("T")

_log = logging.getLogger(__name__)

_PATIENCE = 3.0  # seconds from hanging up to a kill
_HEALTHY = 20.0  # seconds alive after which the next start does not wait
_PAUSES = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)  # seconds before a start, by deaths in a row
_TAIL = 200  # lines of its last output


class Keeper:
    """`heard(frames)` is called with what the worker says, `died(why, tail, doing)` when it is gone.

    `why` is a sentence, `tail` its last output, `doing` the run, the node and that node's parent which it was at.
    """

    def __init__(
        self,
        state: WorkerState,
        index: int,
        options: WorkerOptions,
        inherited: tuple[int, ...],
        heard: Callable[[list[tuple[int, bytes]]], None],
        died: Callable[[str, list[str], tuple[str, str, str]], None],
    ) -> None:
        self.state = state
        self._arguments = options.arguments(state.device, index)
        self._inherited, self._heard, self._died = inherited, heard, died
        self._channel: Channel | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._deaths = 0
        self._doing = ("", "", "")
        self._tail: collections.deque[str] = collections.deque(maxlen=_TAIL)

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._keep(), name=f"worker {self.state.name}")

    async def close(self) -> None:
        """End the process, by force if it does not end by itself."""
        self._closing.set()
        if self._channel is not None:
            self._channel.close()
        if self._task is not None:
            if not (await asyncio.wait([self._task], timeout=2 * _PATIENCE))[0] and self.state.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.state.pid, signal.SIGKILL)
            await self._task

    def send(self, *frames: bytes) -> None:
        if self._channel is not None:
            self._channel.send(*frames)

    def proved(self) -> None:
        """The worker has done something useful, so its next death is the first in a row."""
        self._deaths = 0

    async def _keep(self) -> None:
        while not self._closing.is_set():
            self.state.state = "starting"
            began = time.monotonic()
            try:
                why = await self._live()
            except OSError as error:  # no process could be started: out of memory, or of processes
                why = f"the worker process {self.state.name} could not be started: {error}"
            self._deaths = 1 if time.monotonic() - began >= _HEALTHY else self._deaths + 1
            self.state.state, self.state.pid, self.state.resident = "dead", None, None
            self.state.residents, self.state.used = (), 0
            if self._closing.is_set():
                break
            pause = _PAUSES[min(self._deaths, len(_PAUSES)) - 1]
            self.state.error = why
            self.state.restarts += 1
            _log.error("%s; another one is started%s", why, f" in {pause:g} s" if pause else "")
            self._died(why, list(self._tail), self._doing)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), pause)

    async def _live(self) -> str:
        loop = asyncio.get_running_loop()
        self._tail.clear()
        self._doing = ("", "", "")
        here, there = socket.socketpair()
        memory = shared()
        mark = Mark(memory)
        try:
            here.setblocking(False)
            process = await asyncio.create_subprocess_exec(
                *(
                    sys.executable,
                    "-P",
                    "-m",
                    "server.workers.worker",
                    "--fd",
                    str(there.fileno()),
                    "--mark",
                    str(memory),
                    *self._arguments,
                ),
                pass_fds=(there.fileno(), memory, *self._inherited),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C at the terminal is the server's to handle
                env=_environment(),
            )
        except BaseException:
            here.close()
            mark.close()
            raise
        finally:
            there.close()
            os.close(memory)
        assert process.stdout is not None
        reading = loop.create_task(self._read(process.stdout))
        try:
            self.state.pid = process.pid
            _, channel = await loop.create_connection(lambda: Channel(self._heard), sock=here)
            self._channel = channel
            if self._closing.is_set():
                channel.close()
            await channel.lost
        finally:
            self._channel = None
            if self.state.state != "starting":
                self.state.state = "dead"  # at once, so that nothing more is sent to it
            code = await _reap(process)
            self._doing = mark.read()
            mark.close()
            await _within(reading, 1.0)  # something that it started may still hold the pipe
        return f"the worker process {self.state.name} {epitaph(code)}"

    async def _read(self, stream: asyncio.StreamReader) -> None:
        rest = b""
        while data := await stream.read(1 << 14):
            *lines, rest = (rest + data).split(b"\n")
            for line in [*lines, rest] if len(rest) > 1 << 16 else lines:
                text = line.decode("utf-8", "replace").rstrip()
                self._tail.append(text)
                _log.info("[%s] %s", self.state.name, text)
            if len(rest) > 1 << 16:
                rest = b""


def epitaph(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "unknown"
    hint = ", as the system does when memory runs out" if -code == signal.SIGKILL else ""
    return f"was killed by signal {-code} ({name}){hint}"


async def _reap(process: asyncio.subprocess.Process) -> int:
    """Wait for the end of a process that was hung up on; kill it if that takes too long."""
    if not await _within(asyncio.ensure_future(process.wait()), _PATIENCE):
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    return await process.wait()


async def _within(work: asyncio.Future[T], seconds: float) -> bool:
    """Whether something ends in time; else it is given up."""
    done, _ = await asyncio.wait([work], timeout=seconds)
    if not done:
        work.cancel()
        await asyncio.wait([work])
    return bool(done)


def _environment() -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[2])
    places = dict.fromkeys([*(path or os.getcwd() for path in sys.path), root])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places), "PYTHONUNBUFFERED": "1"}
