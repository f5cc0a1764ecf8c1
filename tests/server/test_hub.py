"""Who is told what: the submitter only, in order, again after a reconnect, and never at the cost of the run."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from server.hub import Hub, features
from server.journal import Journal
from server.outbox import Frame, Outbox
from server.protocol.messages import Message, Preview
from server.runs import NewRun


class Clock:
    """Calls that were put off."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        self.calls.append(call)

    def pass_by(self) -> None:
        calls, self.calls = self.calls, []
        for call in calls:
            call()


class House:
    def __init__(self, journal: Journal | None = None, **options: Any) -> None:
        self.clock = Clock()
        self.journal = journal or Journal(None)
        self.hub = Hub(self.journal, later=self.clock.later, **options)

    def tell(self, client: str, *types: str, run: str = "r", **data: Any) -> None:
        self.hub.send(client, run, [Message(type, {"prompt_id": run, **data}, keep=not type.startswith("progress")) for type in types])


@pytest.fixture
def house():
    return House()


def drain(box: Outbox) -> list[dict[str, Any]]:
    found = []
    while isinstance(frame := box.take(0.0), Frame):
        box.sent(frame)
        found.append(json.loads(frame.text))
    return found


def types(messages: list[dict[str, Any]]) -> list[str]:
    return [each["type"] for each in messages]


def left(message: dict[str, Any]) -> int:
    return int(message["data"]["status"]["exec_info"]["queue_remaining"])


def test_the_first_message_is_the_status_with_the_clients_id(house):
    house.journal.submit(NewRun("a", {}, ()))
    hub = Hub(house.journal, later=house.clock.later)
    assert drain(hub.open("me")) == [{"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 1}}, "sid": "me"}}]


def test_run_events_go_to_their_client_only_and_carry_their_number(house):
    me, you = house.hub.open("me"), house.hub.open("you")
    drain(me), drain(you)
    house.tell("me", "execution_start", "progress_state", "executing", node="1")
    found = drain(me)
    assert types(found) == ["execution_start", "progress_state", "executing"]
    assert [each.get("seq") for each in found] == [1, None, 2]
    assert found[2] == {"type": "executing", "data": {"prompt_id": "r", "node": "1"}, "seq": 2}
    assert drain(you) == []


def test_runs_of_nobody_are_journalled_and_told_to_nobody(house):
    box = house.hub.open("me")
    drain(box)
    house.tell("", "execution_start")
    assert drain(box) == []
    assert len(house.journal.events("", 0)) == 1


def test_a_client_that_comes_back_is_told_what_it_missed(house):
    box = house.hub.open("me")
    house.tell("me", "execution_start")
    drain(box)
    house.tell("me", "executing", node="1")  # not handed over
    house.hub.close("me", box)
    house.tell("me", "executed", node="1", output={})
    found = drain(house.hub.open("me"))
    assert types(found)[:3] == ["status", "executing", "executed"]
    again = house.hub.open("me")
    assert "executed" not in types(drain(again))


def test_since_replays_everything_after_a_number(house):
    for node in "123":
        house.tell("me", "executing", node=node)
    house.tell("me", "executing", node=None)
    assert [each["data"]["node"] for each in drain(house.hub.open("me", 1))[1:]] == ["2", "3", None]
    assert [each["seq"] for each in drain(house.hub.open("me", 0))[1:]] == [1, 2, 3, 4]
    assert drain(house.hub.open("me", 99))[1:] == []


def test_a_client_that_posts_before_it_connects_misses_nothing(house):
    house.tell("me", "execution_start")
    house.tell("me", "execution_success")
    assert types(drain(house.hub.open("me"))) == ["status", "execution_start", "execution_success"]


def test_a_client_that_comes_back_in_mid_run_knows_where_it_stands(house):
    box = house.hub.open("me")
    house.tell("me", "execution_start")
    house.tell("me", "progress_state", nodes={"1": "old"})
    house.tell("me", "executing", node="1")
    house.tell("me", "progress_state", nodes={"1": "new"})
    drain(box)
    house.hub.close("me", box)
    found = drain(house.hub.open("me"))
    assert types(found) == ["status", "progress_state", "executing"]
    assert found[1]["data"]["nodes"] == {"1": "new"}
    assert found[2]["data"]["node"] == "1"


def test_nothing_runs_any_more_for_a_client_that_comes_back_after_the_end(house):
    house.hub.close("me", house.hub.open("me"))
    house.tell("me", "progress_state")
    house.tell("me", "executing", node="1")
    house.tell("me", "execution_success")
    house.tell("me", "executing", node=None)
    found = drain(house.hub.open("me"))
    assert types(found) == ["status", "executing", "execution_success", "executing"]
    assert found[-1]["data"]["node"] is None


def test_a_second_socket_takes_over_and_outlives_the_first(house):
    old = house.hub.open("me")
    drain(old)
    house.tell("me", "execution_start")
    new = house.hub.open("me")
    assert types(drain(new)) == ["status", "execution_start"]
    house.tell("me", "executing", node="1")
    house.hub.close("me", old)
    house.tell("me", "execution_success")
    assert types(drain(new)) == ["executing", "execution_success"]
    assert drain(old) == []
    assert house.hub.sockets == 1


def test_after_a_crash_of_the_server_the_whole_run_is_told_again(tmp_path):
    path = tmp_path / "journal"
    journal = Journal(path)
    first = House(journal)
    first.tell("me", "execution_start", "execution_success", run="before")
    journal.submit(NewRun("r", {}, (), client="me"))
    journal.start("r", "cpu")
    first.tell("me", "execution_start", "executing", node="1")
    journal.close()

    from server.journal.recovery import Verdict

    journal = Journal(path)
    second = House(journal)
    journal.recover(Verdict())
    found = drain(second.hub.open("me"))
    assert types(found) == ["status", "execution_start", "executing", "execution_interrupted", "executing"]
    assert {each["data"]["prompt_id"] for each in found[1:]} == {"r"}
    assert types(drain(second.hub.open("you"))) == ["status"]
    journal.close()


def test_the_submitter_hears_every_change_of_the_queue_before_what_follows(house):
    box = house.hub.open("me")
    drain(box)
    house.hub.queue_changed(1)  # accepted
    house.hub.queue_changed(1)  # taken
    house.tell("me", "execution_start")
    house.tell("me", "execution_success")
    house.hub.queue_changed(0)
    house.tell("me", "executing", node=None)
    assert types(drain(box)) == ["status", "execution_start", "execution_success", "status", "executing"]


def test_others_hear_the_first_and_the_last_change_of_a_burst(house):
    box = house.hub.open("me")
    drain(box)
    for remaining in range(100, 0, -1):
        house.hub.queue_changed(remaining)
    assert [left(each) for each in drain(box)] == [100]
    house.clock.pass_by()
    assert [left(each) for each in drain(box)] == [1]
    house.clock.pass_by()
    assert drain(box) == []
    assert house.clock.calls == []  # nothing ticks while nothing happens


def test_a_client_is_answered_its_feature_flags_and_nothing_else(house):
    house = House(flags=features(100))
    box = house.hub.open("me")
    drain(box)
    for text in (
        "",
        "{",
        "[]",
        "5",
        "null",
        '{"type":"feature_flags"}',
        '{"type":"feature_flags","data":[]}',
        '{"type":"x","data":{}}',
        "[" * 50_000,
    ):
        house.hub.heard(box, text)
    assert drain(box) == []
    house.hub.heard(box, '{"type":"feature_flags","data":{"supports_preview_metadata":true}}')
    assert drain(box) == [{"type": "feature_flags", "data": {"supports_preview_metadata": True, "max_upload_size": 100}}]
    assert box.metadata


def test_previews_reach_only_who_is_there(house):
    picture = Preview("r", "n", "n", None, "n", "image/jpeg", b"x")
    house.hub.send("me", "r", [picture])
    box = house.hub.open("me")
    drain(box)
    house.hub.send("me", "r", [picture])
    assert box.take(0.0) is picture


def test_two_hundred_clients_of_which_half_never_read_hold_little_and_lose_nothing():
    house = House(limit=64 << 10)
    boxes = {f"c{i}": house.hub.open(f"c{i}") for i in range(200)}
    for box in boxes.values():
        drain(box)
    for step in range(100):
        house.hub.queue_changed(step)
        house.clock.pass_by()
        if step % 10 == 0:
            for i in range(0, 200, 2):
                drain(boxes[f"c{i}"])
        for i in range(0, 200, 20):  # some of them have runs; c0 reads, c1 does not
            house.tell(f"c{i}", "executing", node=str(step))
            house.tell(f"c{i + 1}", "executing", "progress_state", node=str(step), big="x" * 1000)
        assert house.hub.waiting < 2 << 20
    assert max(box.waiting for box in boxes.values()) <= 66 << 10
    assert house.hub.dropped > 100
    for i in (0, 1):
        told = [each["data"]["node"] for each in drain(boxes[f"c{i}"]) if each["type"] == "executing" and "seq" in each]
        assert told == [str(step) for step in range(90 if i == 0 else 0, 100)]
    (slow,) = drain(boxes["c3"])  # of the queue, only how it stands now
    assert left(slow) == 99


def test_clients_that_are_gone_are_forgotten_in_the_end(house, monkeypatch):
    monkeypatch.setattr("server.hub._REMEMBERED", 10)
    box = house.hub.open("here")
    for i in range(50):
        house.hub.close(f"c{i}", house.hub.open(f"c{i}"))
    assert len(house.hub._seats) <= 12
    assert house.hub.sockets == 1
    house.tell("here", "execution_start")
    assert "execution_start" in types(drain(box))


def test_a_full_disk_does_not_keep_a_client_from_being_told(house, monkeypatch, caplog):
    import sqlite3

    def full(rows: Any) -> list[int]:
        raise sqlite3.OperationalError("disk is full")

    box = house.hub.open("me")
    drain(box)
    monkeypatch.setattr(house.journal, "record", full)
    house.tell("me", "execution_start")
    assert types(drain(box)) == ["execution_start"]
    assert "cannot be kept" in caplog.text
