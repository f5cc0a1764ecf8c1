"""Events in order; progress thinned; a wish to stop heard."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from graph_engine.errors import Cancelled
from graph_engine.events import NodePreview, NodeProgress, RunQueued
from graph_engine.stream import Cancellation, Progress, Stream


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr("graph_engine.stream.time.monotonic", clock.monotonic)
    return clock


def test_numbers_are_monotone_from_any_thread():
    heard = []
    stream = Stream("r", heard.append)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: stream.emit(RunQueued), range(200)))
    assert [event.seq for event in heard] == list(range(1, 201))
    assert {event.run for event in heard} == {"r"}


def test_progress_is_thinned_but_first_and_last_come_through(clock):
    heard = []
    progress = Progress(Stream("r", heard.append), Cancellation(), "n", "p")
    for i in range(1, 1001):
        clock.now += 0.001
        progress.step(i, 1000, None)
    steps = [event.step for event in heard]
    assert steps[0] == 1
    assert steps[-1] == 1000
    assert 15 <= len(steps) <= 25
    assert heard[-1].rate == pytest.approx(1000)
    assert (heard[0].node, heard[0].parent, heard[0].steps) == ("n", "p", 1000)


def test_previews_are_made_only_for_those_who_look_and_not_too_often(clock):
    made = []

    def preview():
        made.append(1)
        return b"jpeg"

    heard = []
    for previews, expected in ((False, 0), (True, 4)):
        progress = Progress(Stream("r", heard.append, previews=previews), Cancellation(), "n", "n")
        for i in range(1, 101):
            clock.now += 0.0101
            progress.step(i, 100, preview)
        assert len(made) == expected
    assert sum(isinstance(event, NodePreview) for event in heard) == 4
    Progress(Stream("r", None, previews=True), Cancellation(), "n", "n").step(1, 1, lambda: pytest.fail("nobody listens"))


def test_a_preview_that_is_not_to_be_had_is_no_event(clock):
    heard = []
    progress = Progress(Stream("r", heard.append, previews=True), Cancellation(), "n", "n")
    clock.now += 1
    progress.step(1, 2, lambda: None)
    assert [type(event) for event in heard] == [NodeProgress]


def test_without_a_listener_only_what_is_asked_for_is_made():
    stream = Stream("r", None)
    stream.emit(RunQueued)
    assert stream.make(RunQueued).seq == 1


def test_cancelling_wakes_and_is_raised():
    woken = []
    cancellation = Cancellation()
    cancellation.wake = lambda: woken.append(1)
    Progress(Stream("r", None), cancellation, "n", "n").check()
    cancellation.set()
    assert cancellation
    assert woken == [1]
    with pytest.raises(Cancelled):
        Progress(Stream("r", None), cancellation, "n", "n").check()
