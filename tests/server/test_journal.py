from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from graph_engine import GraphError
from server.journal import Busy, Duplicate, Journal
from server.journal.events import EventLog
from server.journal.recovery import Verdict
from server.journal.schema import VERSION
from server.runs import FINISHED, NewRun, Run


def new(id: str = "", **options: Any) -> NewRun:
    return NewRun(id or uuid.uuid4().hex, {"1": {"class_type": "Word", "inputs": {}}}, ("1",), **options)


def ids(runs: list[Run]) -> list[str]:
    return [run.id for run in runs]


def done(journal: Journal, id: str, status: Any = "success", **results: Any) -> Run:
    journal.start(id, "cpu")
    return journal.finish(id, status, results.get("outputs", {}), results.get("meta", {}), results.get("messages", []))


@pytest.fixture
def journal() -> Any:
    made = Journal(None)
    yield made
    made.close()


def test_lower_numbers_run_first_and_equal_ones_in_the_order_of_arrival(journal: Journal) -> None:
    for id, options in {"a": {}, "b": {}, "first": {"front": True}, "c": {"number": 1.0}, "very first": {"front": True}}.items():
        journal.submit(new(id, **options))
    assert ids(journal.pending()) == ["very first", "first", "a", "c", "b"]
    began = []
    while (run := journal.next_pending()) is not None:
        began.append(journal.start(run.id, "cpu").id)
    assert began == ["very first", "first", "a", "c", "b"]


def test_a_run_is_known_once(journal: Journal) -> None:
    journal.submit(new("a"))
    with pytest.raises(Duplicate, match="a run a is known"):
        journal.submit(new("a"))
    done(journal, "a")
    with pytest.raises(Duplicate):
        journal.submit(new("a"))
    assert journal.counts() == (0, 0)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_number_must_be_finite(journal: Journal, number: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        journal.submit(new(number=number))
    assert journal.next_pending() is None


def test_half_a_surrogate_pair_does_no_harm(journal: Journal) -> None:
    extra = {"extra_pnginfo": {"workflow": {"id": "\ud800", "title": "\udfff"}}}
    journal.submit(NewRun("a", {"1": {"inputs": {"text": "\ud800"}}}, ("\ud800",), extra, client="\ud800\0"))
    done(journal, "a", outputs={"1": {"text": ["\ud800"]}})
    run = journal.get("a")
    assert run is not None
    assert run.document == {"1": {"inputs": {"text": "\ud800"}}}
    assert run.outputs == {"1": {"text": ["\ud800"]}}
    assert run.extra == extra
    assert journal.get("\ud800") is None
    journal.forget(["\ud800"])
    assert journal.jobs({"success"}, limit=5, offset=0, workflow_id="\udc00")[1] == 1  # both became a question mark


def test_history_is_in_the_order_of_finishing(journal: Journal) -> None:
    for id in "abcde":
        journal.submit(new(id))
    for id in "cabed":
        done(journal, id)
    assert ids(journal.history()) == list("cabed")
    assert ids(journal.history(2)) == list("ed")
    assert ids(journal.history(2, 1)) == list("ab")
    assert ids(journal.history(None, 3)) == list("ed")
    assert ids(journal.history(2, -1)) == list("ed")
    assert journal.history(0) == []
    journal.forget(["a", "missing"])
    assert ids(journal.history()) == list("cbed")
    journal.forget(None)
    assert journal.history() == []
    assert journal.get("b") is None


def test_a_run_taken_out_of_the_queue_is_a_job_but_no_history(journal: Journal) -> None:
    for id in "abc":
        journal.submit(new(id))
    journal.start("a", "cpu")
    assert journal.remove_pending(["b", "b", "a", "none"]) == ["b"]
    removed = journal.get("b")
    assert removed is not None
    assert (removed.status, removed.started) == ("interrupted", None)
    assert ids(journal.jobs({"interrupted"}, limit=9, offset=0)[0]) == ["b"]
    assert journal.history() == []
    assert journal.remove_pending(None) == ["c"]
    assert journal.counts() == (0, 1)


def test_history_is_capped() -> None:
    journal = Journal(None, history=5)
    for i in range(300):
        journal.submit(new(f"{i}"))
        done(journal, f"{i}")
    kept = ids(journal.history())
    assert kept[-5:] == ["295", "296", "297", "298", "299"]
    assert len(kept) <= 5 + 100
    counts = [journal._database.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("runs", "bodies", "results")]
    assert counts == [len(kept)] * 3
    journal.close()


def test_jobs_come_in_pages(journal: Journal) -> None:
    for i in range(7):
        journal.submit(new(f"{i}", extra={"extra_pnginfo": {"workflow": {"id": "odd" if i % 2 else "even"}}}))
    for i in range(4):
        done(journal, f"{i}", "error" if i == 2 else "success")
    journal.start("4", "cpu")
    page, total = journal.jobs({"success", "error"}, limit=2, offset=1)
    assert (ids(page), total) == (["2", "1"], 4)
    page, total = journal.jobs({"pending", "running"}, limit=9, offset=0, descending=False)
    assert (ids(page), total) == (["4", "5", "6"], 3)
    page, total = journal.jobs(set(FINISHED) | {"pending"}, limit=9, offset=0, workflow_id="odd")
    assert (ids(page), total) == (["5", "3", "1"], 3)
    assert {run.workflow_id for run in page} == {"odd"}
    assert journal.jobs(set(), limit=9, offset=0) == ([], 0)


def test_jobs_by_duration(journal: Journal) -> None:
    for id, length in {"a": 5, "b": 50, "c": 1}.items():
        journal.submit(new(id))
        done(journal, id)
        journal._database.execute("UPDATE runs SET started = 1000, finished = 1000 + ? WHERE id = ?", (length, id))
    page = journal.jobs({"success"}, limit=9, offset=0, sort_by="execution_duration")[0]
    assert ids(page) == ["b", "a", "c"]
    page = journal.jobs({"success"}, limit=9, offset=0, sort_by="execution_duration", descending=False)[0]
    assert ids(page) == ["c", "a", "b"]


def test_events_are_numbered_over_all_clients(journal: Journal) -> None:
    assert journal.record([("me", "r", "a", "1"), ("you", "s", "b", "2")]) == [1, 2]
    assert journal.record([("me", "r", "c", "3")]) == [3]
    assert journal.record([]) == []
    assert journal.events("me", 0) == [(1, "a", "1"), (3, "c", "3")]
    assert journal.events("me", 1) == [(3, "c", "3")]
    assert journal.events("me", 0, 1) == [(1, "a", "1")]
    assert journal.events("nobody", -(10**30)) == journal.events("me", 10**30) == []


def test_events_are_pruned_by_count_and_age(journal: Journal) -> None:
    log = EventLog(journal._database, kept=10, age=1000)
    for i in range(30):
        log.record([("me", "r", "t", str(i))])
    log.prune()
    assert [data for _, _, data in log.events("me", 0, 99)] == [str(i) for i in range(20, 30)]
    journal._database.execute("UPDATE events SET time = ? WHERE seq <= 25", (int(time.time()) - 2000,))
    log.prune()
    assert [seq for seq, _, _ in log.events("me", 0, 99)] == [26, 27, 28, 29, 30]
    journal._database.execute("UPDATE events SET time = 0")
    log.prune()
    assert [seq for seq, _, _ in log.events("me", 0, 99)] == [30]  # numbering goes on from it
    assert EventLog(journal._database).record([("me", "r", "t", "x")]) == [31]


def test_a_batch_is_all_or_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite")
    journal.submit(new("a"))

    def fail() -> None:
        with journal.batch():
            journal.record([("me", "a", "t", "1")])
            with journal.batch():
                journal.start("a", "cpu")
            raise RuntimeError("oops")

    with pytest.raises(RuntimeError, match="oops"):
        fail()
    journal.close()
    journal = Journal(tmp_path / "journal.sqlite")
    assert ids(journal.pending()) == ["a"]
    assert journal.events("me", 0) == []
    journal.close()


def test_a_run_that_could_not_be_written_does_not_wait(journal: Journal) -> None:
    def fail() -> None:
        with journal.batch():
            journal.submit(new("a"))
            raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="disk"):
        fail()
    assert journal.next_pending() is None
    assert journal.counts() == (0, 0)
    assert journal.submit(new("a")).status == "pending"


def test_everything_is_there_after_opening_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "new" / "journal.sqlite")
    for id in ("done", "runs", "late", "early"):
        journal.submit(new(id, extra={"create_time": 7}, client="me", number=-1.5 if id == "early" else None))
    done(journal, "done", "error", outputs={"1": {"text": ["a"]}}, meta={"1": {"node_id": "1"}}, messages=[["execution_start", {}]])
    journal.start("runs", "cuda:1")
    before = [repr(journal.get(id)) for id in ("done", "runs", "late", "early")]
    journal.close()
    journal = Journal(tmp_path / "new" / "journal.sqlite")
    assert [repr(journal.get(id)) for id in ("done", "runs", "late", "early")] == before
    assert (ids(journal.pending()), ids(journal.running())) == (["early", "late"], ["runs"])
    assert journal.submit(new("next")).number == 5  # after what waits already
    journal.close()


def test_a_crash_marks_what_ran_and_tells_its_client(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite")
    document = {"1": {"class_type": "Word", "inputs": {}}, "2": {"class_type": "Wait", "inputs": {}}}
    journal.submit(NewRun("a", document, ("2",), client="me"))
    journal.submit(new("b"))
    journal.start("a", "cpu")
    told: list[tuple[str, dict[str, Any]]] = [
        ("execution_start", {"prompt_id": "a"}),
        ("executing", {"node": "1"}),
        ("executed", {"node": "1", "display_node": "1", "output": {"text": ["x"]}}),
        ("executing", {"node": "2"}),
    ]
    journal.record([("me", "a", kind, json.dumps(data)) for kind, data in told])
    journal.close()
    journal = Journal(tmp_path / "journal.sqlite")
    assert [(run.id, run.status) for run in journal.recover(Verdict())] == [("a", "interrupted")]
    run = journal.history()[0]
    assert run.outputs == {"1": {"text": ["x"]}}
    assert [kind for kind, _ in run.messages] == ["execution_start", "execution_interrupted"]
    end = run.messages[-1][1]
    assert (end["node_id"], end["node_type"], end["executed"]) == ("2", "Wait", ["1"])
    assert "the server stopped" in end["exception_message"]
    news = journal.events("me", 4)
    assert [kind for _, kind, _ in news] == ["execution_interrupted", "executing"]
    assert json.loads(news[-1][2]) == {"node": None, "prompt_id": "a"}
    assert ids(journal.pending()) == ["b"]
    journal.close()


def test_on_request_a_crash_lets_runs_wait_again_but_not_for_ever(journal: Journal) -> None:
    for id in "abc":
        journal.submit(new(id))
    for attempt in range(1, 4):
        journal.start("b", "cpu")
        [run] = journal.recover(Verdict(requeue=True))
        assert run.attempts == attempt
        assert run.status == ("pending" if attempt < 3 else "interrupted")
        assert ids(journal.pending()) == (["a", "b", "c"] if attempt < 3 else ["a", "c"])


def test_a_journal_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "journal.sqlite"
    Journal(file).close()
    database = sqlite3.connect(file)
    database.execute(f"PRAGMA user_version = {VERSION + 1}")
    database.close()
    for _ in range(2):  # the lock is given back
        with pytest.raises(GraphError, match=f"version {VERSION + 1}"):
            Journal(file, patience=0)


def test_two_servers_cannot_share_a_journal(tmp_path: Path) -> None:
    first = Journal(tmp_path / "journal.sqlite")
    with pytest.raises(Busy, match="another server"):
        Journal(tmp_path / "journal.sqlite", patience=0.1)
    first.close()
    Journal(tmp_path / "journal.sqlite", patience=0).close()


_WRITER = """
import sys
from pathlib import Path
from server.journal import Journal
from server.runs import NewRun
journal = Journal(Path(sys.argv[1]))
for i in range(100000):
    with journal.batch():
        journal.submit(NewRun(f"r{i}", {"1": {"class_type": "A", "inputs": {"x": "y" * 3000}}}, ("1",)))
    print(i, flush=True)
    journal.start(f"r{i}", "cpu")
    journal.finish(f"r{i}", "success", {"1": {"n": [i]}}, {}, [])
"""


def test_what_was_accepted_outlives_a_kill(tmp_path: Path) -> None:
    for until in (0, 3, 40):
        file = tmp_path / f"{until}.sqlite"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(file)], stdout=subprocess.PIPE, env=environment, text=True)
        assert writer.stdout is not None
        last = -1
        for line in writer.stdout:
            last = int(line)
            if last >= until:
                writer.kill()
                break
        for line in writer.stdout:
            last = int(line)
        writer.wait()
        writer.stdout.close()
        journal = Journal(file)
        known = {run.id: run for run in [*journal.pending(), *journal.running(), *journal.history()]}
        assert known.keys() >= {f"r{i}" for i in range(last + 1)}
        assert len(known) <= last + 2
        assert all(known[f"r{i}"].outputs == {"1": {"n": [i]}} for i in range(last))
        journal.close()


class Model(RuleBasedStateMachine):
    """The journal does what a list in memory does, also when it is closed and opened at any moment."""

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(os.environ.get("TMPDIR", "/tmp")) / f"journal-{uuid.uuid4().hex}"
        self.journal = Journal(self.place / "j.sqlite")
        self.count = 0
        self.waiting: list[tuple[float, int, str]] = []
        self.running: list[str] = []
        self.finished: list[str] = []

    def teardown(self) -> None:
        self.journal.close()
        for file in self.place.iterdir():
            file.unlink()
        self.place.rmdir()

    @rule(number=st.none() | st.integers(-3, 3), front=st.booleans())
    def submit(self, number: float | None, front: bool) -> None:
        self.count += 1
        run = self.journal.submit(new(f"r{self.count}", number=number, front=front))
        assert run.number == (number if number is not None else -self.count if front else self.count)
        self.waiting.append((run.number, self.count, run.id))

    @rule()
    def start(self) -> None:
        run = self.journal.next_pending()
        assert (run and run.id) == (min(self.waiting)[2] if self.waiting else None)
        if run is not None:
            self.waiting.remove(min(self.waiting))
            self.running.append(self.journal.start(run.id, "cpu").id)

    @rule(data=st.data())
    def finish(self, data: Any) -> None:
        if self.running:
            id = data.draw(st.sampled_from(self.running))
            self.running.remove(id)
            self.finished.append(self.journal.finish(id, "success", {"1": {"n": [id]}}, {}, []).id)

    @rule(data=st.data())
    def remove(self, data: Any) -> None:
        if self.waiting:
            chosen = data.draw(st.sampled_from(self.waiting))
            self.waiting.remove(chosen)
            assert self.journal.remove_pending([chosen[2]]) == [chosen[2]]

    @rule()
    def reopen(self) -> None:
        self.journal.close()
        self.journal = Journal(self.place / "j.sqlite", patience=0)

    @invariant()
    def same(self) -> None:
        assert ids(self.journal.pending()) == [id for _, _, id in sorted(self.waiting)]
        assert sorted(ids(self.journal.running())) == sorted(self.running)
        history = self.journal.history()
        assert ids(history) == self.finished
        assert all(run.outputs == {"1": {"n": [run.id]}} for run in history)
        assert self.journal.counts() == (len(self.waiting), len(self.running))


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)
