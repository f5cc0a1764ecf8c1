from __future__ import annotations

import asyncio
import logging
import os
import queue
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from watcher import House, Watcher, house, single, writing

from graph_engine.events import NodePreview, RunDone, RunStarted
from server.journal import Duplicate, Journal
from server.protocol.story import Story
from server.runs import NewRun
from server.workers import Dispatcher, WorkerOptions
from server.workers.affinity import Memory, traits
from server.workers.frames import COMMAND, EVENT, PREVIEW, Splitter, command, pack, read_event
from server.workers.keeper import epitaph
from server.workers.worker import Worker


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as made:
        yield made


@pytest.fixture(scope="module")
def shared(runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One worker for many tests, because it takes a while to start."""
    context = house(tmp_path_factory.mktemp("home"))
    yield runner.run(context.__aenter__())
    runner.run(context.__aexit__(None, None, None))


def live(test: Callable[[House], Awaitable[None]]) -> Callable[..., None]:
    """Run a test with the one worker, in its event loop."""

    async def settled(home: House) -> None:
        home.journal.forget(None)
        home.dispatcher.free(False, True)
        await home.until(lambda: home.dispatcher.memory()[0]["state"] == "idle")
        home.watcher.told.clear()
        home.watcher.lengths.clear()
        await test(home)

    def run(runner: asyncio.Runner, shared: House) -> None:
        runner.run(settled(shared))

    run.__name__ = test.__name__
    return run


def pid(home: House, index: int = 0) -> int:
    found = home.dispatcher.memory()[index]["pid"]
    assert isinstance(found, int)
    return found


async def under_way(home: House, id: str, type: str = "executing") -> None:
    await home.until(lambda: type in home.watcher.types(id))


async def _order(home: House) -> None:
    since = home.journal.last_event
    run = home.submit("a", writing("x"))
    assert run.status == "running"
    [done] = await home.end("a")
    assert (done.status, done.worker, done.attempts) == ("success", "cpu", 1)
    assert done.outputs["2"]["text"] == ["x"]
    types = [kind for run, kind, _ in home.watcher.told if kind != "progress_state"]
    # accepted, given to the worker, the story, history written, queue shorter, over
    assert types[:4] == ["status", "status", "execution_start", "execution_cached"]
    assert types[-3:] == ["execution_success", "status", "executing"]
    assert home.watcher.lengths == [1, 1, 0]
    last = home.watcher.told[-1][2]
    assert last == {"node": None, "prompt_id": "a", "_status": "success"}  # the history was there before
    success = next(data for _, kind, data in home.watcher.told if kind == "execution_success")
    assert success["_status"] == "running"
    assert [kind for _, kind, _ in home.journal.events("me", since)] == [kind for kind in types if kind != "status"]
    assert [path.name for path in (home.home / "output").iterdir()] == ["x_00001_.txt"]


async def _name_again(home: House) -> None:
    """A name is free as soon as its run is told to be over: the worker does not mix up the two runs, nor die of it."""
    worker = pid(home)
    for _ in range(30):
        home.submit("a", writing("x"))
        [done] = await home.end("a")
        assert (done.status, done.worker, done.attempts) == ("success", "cpu", 1)
        home.journal.forget(None)
    assert pid(home) == worker


async def _cache(home: House) -> None:
    for id in ("a", "b"):
        home.submit(id, writing("x"))
    first, second = await home.end("a", "b")
    assert first.outputs == second.outputs
    cached = [data["nodes"] for run, kind, data in home.watcher.told if kind == "execution_cached" and run == "b"]
    assert cached == [["1", "2"]]
    home.dispatcher.free(False, True)
    home.submit("c", writing("x"))
    [third] = await home.end("c")
    assert third.outputs != first.outputs  # made again, as another file


async def _queue(home: House) -> None:
    for id in ("a", "b", "c", "d"):
        home.submit(id, single("Wait", seconds=0.2), front=id == "d")
    with pytest.raises(Duplicate):
        home.submit("b", single("Even"))
    assert home.journal.counts() == (3, 1)
    assert home.dispatcher.cancel("b") is True
    assert home.dispatcher.cancel("b") is False
    runs = await home.end("a", "b", "c", "d")
    assert [run.status for run in runs] == ["success", "interrupted", "success", "success"]
    assert [run.id for run in home.journal.history()] == ["a", "d", "c"]
    assert home.watcher.types("b") == []
    assert home.watcher.lengths[-1] == 0


async def _interrupt(home: House) -> None:
    home.submit("a", single("Wait", seconds=20, steps=400))
    home.submit("b", single("Wait", seconds=0.1))
    await under_way(home, "a")
    assert home.dispatcher.interrupt("b") is False  # it waits, and is not meant
    assert home.dispatcher.interrupt("a") is True
    first, second = await home.end("a", "b")
    assert (first.status, second.status) == ("interrupted", "success")
    assert "execution_interrupted" in home.watcher.types("a")
    assert home.dispatcher.interrupt("a") is False
    assert home.dispatcher.interrupt(None) is False
    home.submit("c", single("Wait", seconds=20, steps=400))
    assert home.dispatcher.interrupt(None) is True  # before the worker has heard of it
    [third] = await home.end("c")
    assert third.status == "interrupted"


async def _only_the_one_meant(home: House) -> None:
    for i in range(40):  # whenever the wish for an end comes, it is for this run and no other
        home.submit(f"a{i}", single("Wait", seconds=0.004, steps=4))
        home.submit(f"b{i}", single("Even", n=2 * i))
        await asyncio.sleep(i % 10 / 1000)
        home.dispatcher.interrupt(f"a{i}")
        await home.end(f"a{i}", f"b{i}")
    assert {run.status for run in home.journal.history() if run.id[0] == "b"} == {"success"}
    assert {run.status for run in home.journal.history() if run.id[0] == "a"} <= {"success", "interrupted"}


async def _deaths(home: House) -> None:
    before = home.dispatcher.memory()[0]["restarts"]
    causes = {
        "kill": ("WorkerDied", "killed by signal 9 (SIGKILL)"),
        "exit": ("WorkerDied", "ended with exit code 3"),
        "crash": ("WorkerDied", "killed by signal 11 (SIGSEGV)"),
        "raise": ("ValueError", "not today"),
        "memory": ("MemoryError", ""),
    }
    for how, (exception, message) in causes.items():
        home.submit(how, single("Die", how=how))
        home.submit(f"after {how}", writing(how))
        died, after = await home.end(how, f"after {how}")
        assert after.status == "success"
        assert died.status == "error"
        assert died.error is not None
        assert exception in died.error["exception_type"]
        assert message in died.error["exception_message"]
        assert (died.error["node_id"], died.error["node_type"]) == ("1", "Die")
        assert died.attempts == 1
        if exception == "WorkerDied":
            assert "last words" in "".join(died.error["traceback"])
        assert home.watcher.types(how)[-1] == "executing"
    assert home.dispatcher.memory()[0]["restarts"] == before + 3


async def _killed_while_idle(home: House) -> None:
    before, restarts = pid(home), home.dispatcher.memory()[0]["restarts"]
    os.kill(before, signal.SIGKILL)
    await home.until(lambda: home.dispatcher.memory()[0]["restarts"] == restarts + 1)
    home.submit("a", writing("x"))
    [run] = await home.end("a")
    assert run.status == "success"
    assert pid(home) != before


async def _check(home: House) -> None:
    assert await home.dispatcher.check(single("Even", n=2), ["1"]) == []
    [problem] = await home.dispatcher.check(single("Even", n=3), ["1"]) or []
    assert (problem.node, problem.field, problem.message) == ("1", "n", "must be even")
    home.submit("a", single("Wait", seconds=20, steps=200))
    await under_way(home, "a")
    began = time.monotonic()
    assert await home.dispatcher.check(single("Even", n=3), None) == [problem]  # also while it computes
    assert time.monotonic() - began < 5
    home.dispatcher.interrupt("a")
    await home.end("a")
    worker = pid(home)
    os.kill(worker, signal.SIGSTOP)
    await home.until(lambda: Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    assert await home.dispatcher.check(single("Even", n=3), None) is None
    os.kill(worker, signal.SIGCONT)
    os.kill(worker, signal.SIGKILL)
    await home.until(lambda: home.dispatcher.memory()[0]["state"] != "idle")
    assert await home.dispatcher.check(single("Even", n=3), None) is None


async def _invalid(home: House) -> None:
    """What slipped through the server's own check ends with a clear error, and not the worker."""
    before = home.dispatcher.memory()[0]["restarts"]
    home.submit("a", single("Even", n=3))
    home.submit("b", single("Missing"), "1")
    home.submit("c", single("Even", n=4))
    first, second, third = await home.end("a", "b", "c")
    assert (first.status, second.status, third.status) == ("error", "error", "success")
    assert first.error is not None
    assert second.error is not None
    assert "must be even" in first.error["exception_message"]
    assert "Missing" in second.error["exception_message"]
    assert home.dispatcher.memory()[0]["restarts"] == before


async def _previews(home: House) -> None:
    document = single("Wait", seconds=1.2, steps=60, previews=True)
    home.submit("seen", document, "1")
    home.submit("unseen", document, client="")
    await home.end("seen", "unseen")
    progress = [data for run, kind, data in home.watcher.told if kind == "progress" and run == "seen"]
    assert (progress[0]["value"], progress[-1]["value"], progress[-1]["max"]) == (1, 60, 60)
    assert len(progress) < 40


async def _memory(home: House) -> None:
    [row] = await home.dispatcher.survey()
    assert row["state"] == "idle"
    assert row["resident_bytes"] > 10 << 20
    assert row["facts"]["total"] > row["facts"]["free"] > 0
    home.submit("a", single("Wait", seconds=20, steps=200))
    await under_way(home, "a")
    [row] = await home.dispatcher.survey()
    assert (row["state"], row["run"]) == ("running", "a")
    [state] = home.dispatcher.workers
    assert state.resident == pytest.approx(row["resident_bytes"], rel=0.5)
    home.dispatcher.interrupt("a")
    await home.end("a")


def test_a_worker_keeps_the_wish_of_a_run_that_comes_before_the_last_of_its_name_has_returned() -> None:
    order = {"op": "run", "run": "a", "document": {}, "wanted": None, "extra": None, "previews": False}
    worker, told = object.__new__(Worker), list[bytes]()
    worker._wishes, worker._orders = {}, queue.SimpleQueue()
    worker._mark = SimpleNamespace(set=lambda *names: None)

    def put(frame: bytes, now: bool) -> None:
        told.append(frame)
        if len(told) == 1:  # the server hears that the first is over, and sends the second
            worker._obey(order)

    def perform(document: object, *, on_event: Callable[[object], None], **how: object) -> None:
        on_event(RunDone(run="a", status="success", seconds=0.0, executed=0, cached=0))

    worker._outbox, engine = SimpleNamespace(put=put), SimpleNamespace(perform=perform)
    worker._obey(order)
    for _ in range(2):
        worker._run(engine, worker._orders.get_nowait())
    assert len(told) == 2
    assert worker._wishes == {}


for _test in (
    _order,
    _name_again,
    _cache,
    _queue,
    _interrupt,
    _only_the_one_meant,
    _deaths,
    _killed_while_idle,
    _check,
    _invalid,
    _previews,
    _memory,
):
    globals()[f"test{_test.__name__}"] = live(_test)


def test_two_workers_share_the_queue_and_keep_to_what_they_know(tmp_path: Path) -> None:
    async def inside() -> None:
        async with house(tmp_path, ("cpu", "cpu")) as home:
            for id in ("a", "b"):
                home.submit(id, single("Wait", seconds=0.5, steps=3 if id == "a" else 4))
            assert home.journal.counts() == (0, 2)
            first, second = await home.end("a", "b")
            assert {first.worker, second.worker} == {"cpu#0", "cpu#1"}
            for i in range(4):
                home.submit(f"b{i}", single("Wait", seconds=0.5 if i == 0 else 0.01, steps=4))
                [again] = await home.end(f"b{i}")
                assert again.worker == second.worker
            home.submit("c", single("Stubborn"))
            await under_way(home, "c")
            worker = home.journal.running()[0].worker
            row = next(row for row in home.dispatcher.memory() if row["name"] == worker)
            home.submit("d", single("Wait", seconds=0.1))
            [beside] = await home.end("d")
            assert beside.worker != worker
            os.kill(row["pid"], signal.SIGTERM)  # a stop of the group is not its business
            os.kill(row["pid"], signal.SIGKILL)
            [lost] = await home.end("c")
            assert lost.status == "error"

    asyncio.run(inside())


@pytest.mark.parametrize(("requeue", "status"), [(False, "interrupted"), (True, "pending")])
@pytest.mark.parametrize("kind", ["Wait", "Stubborn"])
def test_closing_parks_what_does_not_end_in_time(tmp_path: Path, kind: str, requeue: bool, status: str) -> None:
    async def inside() -> None:
        async with house(tmp_path, path=tmp_path / "j.sqlite", requeue=requeue) as home:
            home.submit("a", single(kind, seconds=30.0))
            home.submit("b", writing("x"))
            await under_way(home, "a")
            worker = pid(home)
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)

    asyncio.run(inside())
    journal = Journal(tmp_path / "j.sqlite", patience=0)
    a, b = journal.get("a"), journal.get("b")
    assert a is not None
    assert b is not None
    assert (a.status, a.attempts, b.status) == (status, 1, "pending")
    if status == "interrupted":
        assert [kind for kind, _ in a.messages][-1] == "execution_interrupted"
    else:
        assert journal.remove_pending(["a"]) == ["a"]
    journal.close()

    async def again() -> None:
        async with house(tmp_path, path=tmp_path / "j.sqlite") as home:
            [b] = await home.end("b")
            assert b.status == "success"

    asyncio.run(again())


def test_closing_waits_for_what_ends_in_time(tmp_path: Path) -> None:
    async def inside() -> None:
        async with house(tmp_path, path=tmp_path / "j.sqlite", grace=20.0) as home:
            home.submit("a", single("Wait", seconds=0.5))
            home.submit("b", single("Wait", seconds=0.5))
            await under_way(home, "a")

    asyncio.run(inside())
    journal = Journal(tmp_path / "j.sqlite", patience=0)
    assert [run.id for run in journal.history()] == ["a"]
    assert [run.id for run in journal.pending()] == ["b"]
    journal.close()


def test_a_worker_that_cannot_start_is_tried_again_and_the_queue_waits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def inside() -> None:
        journal = Journal(None)
        options = WorkerOptions(home=tmp_path, nodes=("no_such_module",), plain=True)
        dispatcher = Dispatcher(journal, Watcher(journal), Story, ["cpu"], options)
        await dispatcher.start()
        dispatcher.submit(NewRun("a", single("Even"), ("1",)))
        assert await dispatcher.ready(0.1) is False
        async with asyncio.timeout(30):
            while dispatcher.memory()[0]["restarts"] < 2:
                await asyncio.sleep(0.05)
        assert "exit code 1" in dispatcher.memory()[0]["error"]
        assert journal.counts() == (1, 0)
        assert await dispatcher.check(single("Even"), None) is None
        await dispatcher.close(0)
        journal.close()

    with caplog.at_level(logging.INFO, "server.workers"):
        asyncio.run(inside())
    assert "no_such_module" in caplog.text


def test_a_story_that_fails_costs_its_messages_and_not_the_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Story, event: Any) -> list[Any]:
        raise RuntimeError("a mistake in the story")

    monkeypatch.setattr(Story, "tell", fail)

    async def inside() -> None:
        async with house(tmp_path) as home:
            home.submit("a", single("Even"))
            home.submit("b", single("Die", how="exit"))
            a, b = await home.end("a", "b")
            assert (a.status, b.status) == ("success", "error")

    asyncio.run(inside())


def test_frames_survive_any_cut() -> None:
    events = [
        RunStarted(run="é", nodes=("1",), titles={"1": "a"}, seq=3),
        NodePreview(run="r", node="1", parent="1", data=bytes(range(256)), media="image/png"),
    ]
    stream = command("run", run="é") + b"".join(pack(event) for event in events)
    for size in (1, 2, 3, 5, 64, len(stream)):
        splitter = Splitter()
        frames = [each for at in range(0, len(stream), size) for each in splitter.feed(stream[at : at + size])]
        assert [kind for kind, _ in frames] == [COMMAND, EVENT, PREVIEW]
        assert [read_event(*each) for each in frames[1:]] == events


def test_a_worker_suits_what_it_has_seen() -> None:
    memory = Memory()
    document = {"1": {"class_type": "Load", "inputs": {"name": "a.safetensors", "n": 1}}}
    other = {"1": {"class_type": "Load", "inputs": {"name": "b.safetensors", "n": 1}}}
    memory.note(traits(document))
    assert memory.suits(traits(document)) > memory.suits(traits(other)) > 0
    memory.clear()
    assert memory.suits(traits(document)) == 0
    assert traits({"1": None, "2": {}, "3": {"class_type": None, "inputs": []}}) != {}


def test_how_a_process_ended_is_told_in_words() -> None:
    assert epitaph(2) == "ended with exit code 2"
    assert epitaph(-15) == "was killed by signal 15 (SIGTERM)"
    assert "memory runs out" in epitaph(-9)
