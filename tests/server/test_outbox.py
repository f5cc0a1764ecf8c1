"""Order, bounds, and that nothing which was journalled is ever missed by a reader, however slow."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from server.outbox import STATUS, Frame, Outbox
from server.protocol.messages import Preview, framed


class Log:
    """A journal of one client."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, str, str]] = []

    def add(self, type: str = "executing", **data: Any) -> tuple[str, int]:
        self.rows.append((len(self.rows) + 1, type, json.dumps(data)))
        return framed(type, json.dumps(data), len(self.rows)), len(self.rows)

    def events(self, since: int, limit: int) -> list[tuple[int, str, str]]:
        return self.rows[since : since + limit]


def outbox(
    log: Log | None = None, *, since: int = 0, limit: int = 1 << 20, rate: float = 8.0, resumed: list[Frame] | None = None
) -> Outbox:
    return Outbox((log or Log()).events, lambda: resumed or [], since=since, limit=limit, rate=rate)


def drain(box: Outbox, now: float = 0.0) -> list[dict[str, Any]]:
    found = []
    while (frame := box.take(now)) is not None:
        assert isinstance(frame, Frame)
        box.sent(frame)
        found.append(json.loads(frame.text))
    return found


def ready(**options: Any) -> Outbox:
    """One whose replay is over."""
    box = outbox(**options)
    assert box.take(0.0) is None
    return box


def preview(node: str = "n", run: str = "r", data: bytes = b"x") -> Preview:
    return Preview(run, node, node, None, node, "image/jpeg", data)


def test_a_fast_reader_gets_everything_in_order():
    log, box = Log(), ready()
    for i in range(5):
        box.say(framed("progress_state", json.dumps({"i": i})), key="state")
        box.say(*log.add(i=i))
    assert [(each["type"], each["data"]["i"]) for each in drain(box)] == [(t, i) for i in range(5) for t in ("progress_state", "executing")]
    assert box.handed == 5
    assert box.waiting == 0


def test_passing_messages_give_way_to_newer_ones_once_many_wait():
    log, box = Log(), ready()
    big = "x" * 30_000
    for i in range(10):
        box.say(framed("progress_state", json.dumps({"i": i, "big": big})), key="state")
    box.say(*log.add(i="last"))
    assert box.waiting < 150_000
    found = drain(box)
    assert [each["data"]["i"] for each in found][-2:] == [9, "last"]
    assert len(found) < 6
    assert box.dropped == 11 - len(found)


def test_what_the_journal_holds_goes_first_and_the_passing_state_after_it():
    log = Log()
    for i in range(600):
        log.add(i=i)
    box = outbox(log, since=10, resumed=[Frame(framed("progress_state", '{"i":"now"}'), key="state")])
    box.say(framed("status", '{"i":"status"}'), key=STATUS)
    box.say(framed("progress_state", '{"i":"skipped"}'), key="state")
    box.say(*log.add(i=600))  # the journal has it
    assert [each["data"]["i"] for each in drain(box)] == ["status", *range(10, 601), "now"]


def test_an_overflow_costs_no_memory_and_no_change_of_state():
    log = Log()
    box = ready(log=log, limit=20_000)
    box.say(framed("status", '{"i":"status"}'), key=STATUS)
    most = 0
    for i in range(1000):
        box.say(*log.add(i=i, text="x" * 100))
        box.say(framed("progress", '{"i":"passing"}'), key="progress")
        box.show(preview())
        most = max(most, box.waiting)
    assert most <= 21_000
    box.end("r")
    found = drain(box)
    assert found[0]["data"]["i"] == "status"
    numbers = [each["seq"] for each in found if "seq" in each]
    assert numbers == list(range(1, 1001))
    assert box.dropped > 0


@given(st.lists(st.sampled_from(["tell", "pass", "take", "reconnect"]), max_size=60), st.integers(300, 3000))
def test_whatever_happens_every_change_of_state_arrives_once_and_in_order(steps, limit):
    log = Log()
    box, got = outbox(log, limit=limit), []

    def take(box: Outbox) -> None:
        frame = box.take(0.0)
        if isinstance(frame, Frame):
            box.sent(frame)
            got.extend(number for number in [json.loads(frame.text).get("seq")] if number is not None)

    for step in steps:
        if step == "tell":
            box.say(*log.add(text="x" * 50))
        elif step == "pass":
            box.say(framed("progress", '{"text":"yyyyyyyyyyyyyyy"}'), key="progress")
        elif step == "take":
            take(box)
        else:
            handed = box.handed
            box.silence()
            box = outbox(log, since=handed, limit=limit)
        assert box.waiting <= limit + 256 * 200
    for _ in range(len(log.rows) * 3 + 3):
        take(box)
    assert got == [seq for seq, _, _ in log.rows]


def test_previews_are_spaced_and_only_the_newest_of_a_node_is_kept():
    box = ready(rate=4.0)
    for data in (b"1", b"2", b"3"):
        box.show(preview(data=data))
    box.show(preview("m", data=b"m"))
    first = box.take(10.0)
    assert isinstance(first, Preview)
    assert first.data == b"3"
    assert box.take(10.1) is None
    assert box.due == 10.25
    second = box.take(10.25)
    assert isinstance(second, Preview)
    assert second.node == "m"
    assert box.due is None
    assert box.dropped == 2


def test_many_nodes_with_previews_are_bounded():
    box = ready()
    for i in range(100):
        box.show(preview(str(i), data=b"x" * 1000))
    assert box.waiting <= 16_000


def test_previews_of_a_run_that_is_over_are_forgotten():
    box = ready()
    box.show(preview(run="r"))
    box.show(preview(run="q"))
    box.end("r")
    left = box.take(0.0)
    assert isinstance(left, Preview)
    assert left.run == "q"


def test_a_silenced_outbox_holds_nothing_and_takes_nothing():
    log, box = Log(), outbox()
    box.say(*log.add())
    box.show(preview())
    box.silence()
    box.say(*log.add())
    box.say(framed("status", "{}"), key=STATUS)
    box.show(preview())
    assert (box.take(0.0), box.waiting) == (None, 0)
