"""Kills at random moments, of the worker, the server, or both: nothing accepted is lost, nothing made twice, no file half there."""

from __future__ import annotations

import collections
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from watcher import writing

from graph_engine.saving import sweep
from server.journal import Journal

KILLS = 20  # in all four tests together
EACH = 6  # runs between two kills
PIECES = 5


class Server:
    """A server process under attack."""

    def __init__(self, home: Path, workers: int, *more: str) -> None:
        here = Path(__file__).parent
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(here)])}
        self.process = subprocess.Popen(
            [sys.executable, str(here / "chaos_server.py"), str(home), str(workers), *more],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
            bufsize=1,
        )
        assert self.hear() == "up"

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def say(self, op: str, **fields: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"op": op, **fields}) + "\n")

    def ask(self, op: str) -> Any:
        self.say(op)
        return json.loads(self.hear())

    def submit(self, id: str) -> None:
        self.say("submit", id=id, document=writing(id, pieces=PIECES, seconds=0.02))
        assert self.hear() == id

    def wait(self) -> None:
        until = time.monotonic() + 60
        while self.ask("counts") != [0, 0]:
            assert time.monotonic() < until
            time.sleep(0.02)

    def kill(self) -> None:
        self.process.kill()
        self.reap()

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.reap()

    def reap(self) -> None:
        self.process.wait(30)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None and not pipe.closed:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue


def attack(home: Path, target: str, workers: int, kills: int, seed: int, *more: str) -> list[str]:
    """Submit runs, kill at random moments, start again where needed; the ids that were accepted."""
    chance, accepted = random.Random(seed), list[str]()
    server = Server(home, workers, *more)
    until = time.monotonic() + 60
    while len(server.ask("pids")) < workers:
        assert time.monotonic() < until
    for kill in range(kills):
        for _ in range(EACH):
            id = f"{target}-{kill}-{len(accepted)}"
            server.submit(id)
            accepted.append(id)
        time.sleep(chance.uniform(0.0, 0.15))
        pids = server.ask("pids")
        if target in ("server", "both"):
            server.kill()
        if target in ("worker", "both") and pids:
            strike(chance.choice(pids))
        if target in ("server", "both"):
            server = Server(home, workers, *more)
    server.wait()
    server.end()
    return accepted


def strike(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it had ended with its server


@pytest.mark.parametrize(
    ("target", "workers", "kills", "more"),
    [("worker", 1, 7, ()), ("worker", 2, 3, ()), ("server", 1, 4, ()), ("both", 1, 3, ()), ("server", 1, 3, ("requeue",))],
)
def test_nothing_is_lost_doubled_or_torn(tmp_path: Path, target: str, workers: int, kills: int, more: tuple[str, ...]) -> None:
    accepted = attack(tmp_path, target, workers, kills, 1234 + kills, *more)
    journal = Journal(tmp_path / "journal.sqlite", patience=10)
    runs = {run.id: run for run in journal.history()}
    assert sorted(runs) == sorted(accepted)
    assert journal.counts() == (0, 0)

    made = collections.Counter[str]()
    output = tmp_path / "output"
    for file in output.iterdir():
        if file.name.startswith("."):  # left by a killed process, invisible, and swept by the next worker
            continue
        id = file.name.rpartition("_0")[0]
        made[id] += 1
        assert file.read_text() == f"{id}\n" * PIECES + "end\n"
    if not more:  # what is run again on request may write again
        assert set(made.values()) == {1}
    for id, run in runs.items():
        assert run.status in ("success", "error", "interrupted")
        assert run.attempts == 1 or run.messages[0][0] == "execution_requeued"
        if run.status == "success":
            assert made[id] >= 1
            assert run.outputs["2"]["text"] == [id]
        elif run.status == "error":
            assert run.error is not None
            assert "SIGKILL" in run.error["exception_message"]
        else:
            assert run.messages[-1][0] == "execution_interrupted"
    cut = [run for run in runs.values() if run.status != "success"]
    assert len(cut) <= kills  # a kill costs no more than what ran
    if target == "worker":
        assert all(run.status == "error" for run in cut)
    if more:
        assert cut == []

    # every client can still be told how each run ended
    told = collections.defaultdict[str, list[str]](list)
    for _, kind, data in journal.events("me", 0, 10**6):
        content = json.loads(data)
        told[content["prompt_id"]].append("end" if kind == "executing" and content["node"] is None else kind)
    for id, run in runs.items():
        assert told[id][-1] == "end"
        assert (
            told[id][-2] == {"success": "execution_success", "error": "execution_error", "interrupted": "execution_interrupted"}[run.status]
        )
        if not more:
            assert told[id].count("end") == told[id].count("execution_start") == 1
    journal.close()
    sweep(output)
    assert not [file for file in output.iterdir() if file.name.startswith(".")]


def test_the_kills_are_as_many_as_promised() -> None:
    marks = test_nothing_is_lost_doubled_or_torn.pytestmark  # type: ignore[attr-defined]
    assert sum(kills for _, _, kills, _ in marks[0].args[1]) == KILLS
