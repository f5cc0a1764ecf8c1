"""The worker process: owns the engine of one device, runs what the server sends, and ends when the server is gone."""

from __future__ import annotations

import argparse
import faulthandler
import gc
import json
import os
import queue
import signal
import socket
import threading
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

from graph_engine import Folders, Registry, WorkflowError
from graph_engine.device import HostDevice
from graph_engine.engine import Engine
from graph_engine.events import Event, NodeDone, NodeExpanded, NodeFailed, NodeStarted, RunDone, RunQueued
from graph_engine.saving import sweep
from graph_engine.stream import Cancellation
from server.workers.frames import COMMAND, Splitter, command, pack
from server.workers.mark import Mark
from server.workers.outbox import Outbox

__all__ = ["main"]

_GRACE = 1.0  # seconds that a running node is given when the server is gone
_READ = 1 << 16


class Worker:
    """Commands come in through a thread of their own, so that an interruption is heard while the engine works in the main thread."""

    def __init__(self, connection: socket.socket, mark: Mark) -> None:
        self._connection, self._mark = connection, mark
        self._outbox = Outbox(connection)
        self._orders: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._wishes: dict[str, Cancellation] = {}
        self._over = threading.Event()
        self._engine: Engine | None = None
        threading.Thread(target=self._listen, name="commands", daemon=True).start()

    def serve(self, engine: Engine) -> None:
        """Say hello and work until the server hangs up."""
        device = engine.device
        registry = engine.registry
        broken = [f"{each.name}: {each.error}" for each in registry.broken]
        self._engine = engine
        gc.collect()
        gc.freeze()  # what was loaded stays; the collector need not look at it again and again
        self._outbox.put(
            command("hello", pid=os.getpid(), facts=asdict(device.facts()), budget=device.budget, nodes=len(registry), broken=broken),
            now=True,
        )
        while (order := self._orders.get()) is not None:
            if order["op"] == "run":
                self._run(engine, order)
            else:
                engine.free(models=order["models"], results=order["results"])
        self._over.set()

    def unfit(self, error: BaseException) -> None:
        """Tell why this process cannot work."""
        self._outbox.put(command("unfit", message=f"{type(error).__name__}: {error}"), now=True)

    def _run(self, engine: Engine, order: dict[str, Any]) -> None:
        run, wish, mark = order["run"], self._wishes[order["run"]], self._mark
        ended, working = False, dict[str, str]()
        mark.set(run)

        def tell(event: Event) -> None:
            nonlocal ended
            if isinstance(event, RunQueued):
                return
            if isinstance(event, NodeStarted):
                working[event.node] = event.parent
                mark.set(run, event.node, event.parent)
            elif isinstance(event, (NodeDone, NodeFailed, NodeExpanded)) and working.pop(event.node, None) is not None:
                mark.set(run, *next(reversed(working.items()), ("", "")))
            ended = isinstance(event, RunDone)
            if ended:
                self._wishes.pop(run, None)  # before the server hears of it, which may then send another run of this name
            self._outbox.put(pack(event), now=ended)

        try:
            engine.perform(
                order["document"],
                wanted=order["wanted"],
                on_event=tell,
                extra=order["extra"],
                previews=order["previews"],
                run=run,
                cancellation=wish,
            )
        except Exception as error:
            if ended:  # the server has closed the run already
                traceback.print_exc()
            else:
                self._wishes.pop(run, None)
                problems = [str(problem) for problem in error.problems] if isinstance(error, WorkflowError) else [str(error)]
                trace = [] if isinstance(error, WorkflowError) else traceback.format_exception(error)
                self._outbox.put(
                    command("broken", run=run, exception=type(error).__name__, message="\n".join(problems), traceback=trace), now=True
                )

    def _listen(self) -> None:
        splitter = Splitter()
        while True:
            try:
                data = self._connection.recv(_READ)
            except OSError:
                data = b""
            if not data:
                break
            for kind, payload in splitter.feed(data):
                assert kind == COMMAND
                self._obey(json.loads(payload))
        for wish in list(self._wishes.values()):
            wish.set()
        self._orders.put(None)
        self._over.wait(_GRACE)
        os._exit(0)  # also out of a node that does not look up; files are complete or not there

    def _obey(self, order: dict[str, Any]) -> None:
        op = order["op"]
        if op == "run":
            self._wishes[order["run"]] = Cancellation()
            self._orders.put(order)
        elif op == "cancel":
            if (wish := self._wishes.get(order["run"])) is not None:
                wish.set()
        elif op == "free":
            self._orders.put(order)
        elif self._engine is not None:
            try:
                answer = self._answer(self._engine, order)
            except Exception as error:  # such as a node's own `check` that fails; the server says what that means
                traceback.print_exc()
                answer = {"error": f"{type(error).__name__}: {error}"}
            self._outbox.put(command("answer", id=order["id"], **answer), now=True)

    def _answer(self, engine: Engine, order: dict[str, Any]) -> dict[str, Any]:
        if order["op"] == "check":
            problems = engine.check(order["document"], wanted=order["wanted"])
            return {"problems": [problem.model_dump(mode="json") for problem in problems]}
        if order["op"] == "report":
            return {"residents": engine.memory(), "facts": asdict(engine.device.facts())}
        raise ValueError(f"no such order: {order['op']}")


def main(arguments: list[str] | None = None) -> None:
    """Run the process: `--fd` is the socket to the server, the rest describes the engine."""
    parser = argparse.ArgumentParser(prog="python -m server.workers.worker")
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--mark", type=int, required=True, help="memory shared with the server")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--folders", type=json.loads, default={}, help="further folders by kind, as JSON")
    parser.add_argument("--cache-dir", type=Path)
    parser.add_argument("--cache-bytes", type=int)
    parser.add_argument("--nodes", action="append", default=[], help="a further module of node classes; repeatable")
    parser.add_argument("--plain", action="store_true", help="only the nodes of --nodes, on the plain host")
    given = parser.parse_args(arguments)
    faulthandler.enable()
    for stop in (signal.SIGINT, signal.SIGTERM):  # a stop of the whole group is the server's to handle
        signal.signal(stop, signal.SIG_IGN)
    _offer_to_the_oom_killer()
    worker = Worker(socket.socket(fileno=given.fd), Mark(given.mark))
    try:
        registry = Registry() if given.plain else Registry.discover()
        for module in given.nodes:
            registry.include(module)
        folders = Folders(given.home, given.folders)
        device = HostDevice() if given.plain else given.device
        engine = Engine(registry, device=device, folders=folders, cache_dir=given.cache_dir, cache_bytes=given.cache_bytes)
        for kind in ("output", "temp"):
            sweep(folders.places(kind)[0])
        engine.cache  # noqa: B018 - opens device and cache, so that the first run need not
    except BaseException as error:
        worker.unfit(error)
        raise
    worker.serve(engine)


def _offer_to_the_oom_killer() -> None:
    """When memory runs out the system shall take this process, which is replaced, and not the server."""
    score = Path("/proc/self/oom_score_adj")
    if score.exists():
        try:
            score.write_text("500")
        except OSError as error:
            print(f"oom_score_adj stays as it is: {error}", flush=True)  # noqa: T201 - the server logs what is printed


if __name__ == "__main__":
    main()
