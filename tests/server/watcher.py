"""An audience that writes down what it is told, and journals it as the hub does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from server.journal import Journal
from server.protocol.messages import Message, Preview
from server.protocol.story import Story
from server.runs import NewRun, Run
from server.workers import Dispatcher, WorkerOptions


class Watcher:
    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.told: list[tuple[str, str, dict[str, Any]]] = []  # run, type, data
        self.previews: list[Preview] = []
        self.lengths: list[int] = []
        self.news = asyncio.Event()

    def send(self, client: str, run_id: str, messages: Sequence[Message | Preview]) -> None:
        kept = [each for each in messages if isinstance(each, Message) and each.keep]
        self.journal.record([(client, run_id, each.type, json.dumps(each.data)) for each in kept])
        for each in messages:
            if isinstance(each, Message):
                status = run.status if (run := self.journal.get(run_id)) is not None else None
                self.told.append((run_id, each.type, {**each.data, "_status": status}))
            else:
                self.previews.append(each)
        self.news.set()

    def queue_changed(self, remaining: int) -> None:
        self.lengths.append(remaining)
        self.told.append(("", "status", {"remaining": remaining}))
        self.news.set()

    def types(self, run: str) -> list[str]:
        return [kind for id, kind, _ in self.told if id == run]


class House:
    """A dispatcher with its journal and somebody who watches."""

    def __init__(self, home: Path, journal: Journal, dispatcher: Dispatcher, watcher: Watcher) -> None:
        self.home, self.journal, self.dispatcher, self.watcher = home, journal, dispatcher, watcher

    def submit(self, id: str, document: dict[str, Any], *targets: str, client: str = "me", **options: Any) -> Run:
        wanted = targets or tuple(node for node, entry in document.items() if entry["class_type"] in OUTPUTS)
        return self.dispatcher.submit(NewRun(id, document, wanted, client=client, **options))

    async def until(self, condition: Any, seconds: float = 30.0) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                self.watcher.news.clear()
                try:
                    await asyncio.wait_for(self.watcher.news.wait(), 0.1)
                except TimeoutError:
                    continue

    async def end(self, *ids: str) -> list[Run]:
        """Wait until these runs are over."""

        def over() -> bool:
            return all((run := self.journal.get(id)) is not None and run.finished is not None for id in ids)

        await self.until(over)
        return [run for id in ids if (run := self.journal.get(id)) is not None]


OUTPUTS = {"Write", "Wait", "Stubborn", "Die", "Even"}


@asynccontextmanager
async def house(
    home: Path, devices: Sequence[str] = ("cpu",), path: Path | None = None, *, requeue: bool = False, grace: float = 0.0
) -> AsyncIterator[House]:
    journal = Journal(path)
    watcher = Watcher(journal)
    options = WorkerOptions(home=home, nodes=("work_nodes",), plain=True, cache_bytes=1 << 20)
    dispatcher = Dispatcher(journal, watcher, Story, devices, options, requeue=requeue)
    await dispatcher.start()
    try:
        assert await dispatcher.ready(30)
        yield House(home, journal, dispatcher, watcher)
    finally:
        await dispatcher.close(grace)
        journal.close()


def writing(text: str = "a", **inputs: Any) -> dict[str, Any]:
    return {
        "1": {"class_type": "Word", "inputs": {"text": text}},
        "2": {"class_type": "Write", "inputs": {"text": ["1", 0], "prefix": text, **inputs}},
    }


def single(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"1": {"class_type": kind, "inputs": inputs}}
