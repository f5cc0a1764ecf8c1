"""Whole runs: what runs and what does not, failures, cancellation, out-of-memory, mutation, work that overlaps."""

from __future__ import annotations

import threading
import time

import pytest
import running_nodes
from documents import chain, doc
from fakes import FakeDevice

from graph_engine.events import NodeCached, NodeDone, NodeFailed, NodeProgress, NodeStarted, RunDone, RunStarted


def kinds(events):
    return [event.kind for event in events]


def test_a_run_tells_its_story_in_order(engine):
    events = []
    workflow = doc(a=("Number", {"value": 2}), b=("Add", {"a": "@a", "b": 3}), s=("Show", {"what": "@b"}), unneeded=("Add", {"a": "@b"}))
    result = engine().run(workflow, on_event=events.append)
    assert kinds(events) == ["run_queued", "run_started", *["node_started", "node_done"] * 3, "memory_report", "run_done"]
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    started = next(event for event in events if isinstance(event, RunStarted))
    assert started.nodes == ("a", "b", "s")
    done = events[-1]
    assert isinstance(done, RunDone)
    assert (done.status, done.executed, done.cached) == ("success", 3, 0)
    assert result.status == "success"
    assert result["b"] == 5
    assert next(e for e in events if isinstance(e, NodeDone) and e.node == "s").ui == {"text": ["5"]}


def test_only_what_is_wanted_runs(engine, calls):
    workflow = doc(a=("Number", {}), b=("Add", {"a": "@a"}), c=("Add", {"a": "@a"}), s=("Show", {"what": "@c"}))
    assert engine().run(workflow, wanted=["b"])["b"] == 1
    assert calls == ["a", "b"]


def test_unchanged_nodes_do_not_run_again_and_changed_ones_take_their_readers_along(engine, calls):
    e = engine()
    e.run(chain(5))
    calls.clear()
    events = []
    again = e.run(chain(5), on_event=events.append)
    assert calls == []
    assert again.executed == ()
    assert set(again.cached) == {"n0", "n1", "n2", "n3", "n4", "end"}
    assert sum(isinstance(event, NodeCached) for event in events) == 6
    assert next(event for event in events if isinstance(event, NodeCached) and event.node == "end").ui == {"text": ["4"]}
    changed = e.run(chain(5).set("n3.b", 7))
    assert changed.executed == ("n3", "n4", "end")
    assert changed["n4"] == 10


def test_a_change_without_effect_stops_there(engine, calls):
    e = engine()
    workflow = doc(a=("Number", {"value": 6}), h=("Halve", {"a": "@a"}), b=("Add", {"a": "@h"}), s=("Show", {"what": "@b"}))
    e.run(workflow)
    calls.clear()
    assert e.run(workflow.set("a.value", 7)).executed == ("a", "h")
    assert calls == ["a", "h"]


def test_a_node_without_cache_runs_every_time_but_the_same_result_goes_no_further(engine, calls):
    e = engine()
    workflow = doc(r=("Random", {"a": 3}), b=("Add", {"a": "@r"}), s=("Show", {"what": "@b"}))
    e.run(workflow)
    calls.clear()
    assert e.run(workflow).executed == ("r",)


def test_equal_nodes_of_one_workflow_are_computed_once(engine, calls):
    workflow = doc(
        a=("Add", {"a": 1}),
        b=("Add", {"a": 1}),
        c=("Sum", {"values": "@a"}),
        d=("Sum", {"values": "@b"}),
        s=("Show", {"what": "@d"}),
        t=("Show", {"what": "@c"}),
    )
    result = engine().run(workflow)
    assert result["c"] == result["d"] == 2
    assert sum(node in "ab" for node in calls) == 1


def test_lazy_inputs_run_only_when_asked_for_and_a_hit_needs_no_asking(engine, calls):
    e = engine()
    workflow = doc(
        a=("Number", {"value": 1}), b=("Fail", {}), c=("Choose", {"first": True, "one": "@a", "other": "@b"}), s=("Show", {"what": "@c"})
    )
    assert e.run(workflow).status == "success"
    assert calls == ["a", "c", "s"]
    calls.clear()
    assert e.run(workflow).executed == ()
    assert e.run(workflow.set("b.why", "another reason")).executed == ()
    assert e.run(workflow.set("c.first", False)).status == "error"


def test_lazy_inputs_are_asked_for_until_the_node_is_satisfied(engine, calls):
    workflow = doc(
        a=("Number", {"value": 2}),
        b=("Number", {"value": 3}),
        c=("Number", {"value": 4}),
        u=("Until", {"enough": 5, "a": "@a", "b": "@b", "c": "@c"}),
    )
    assert engine().run(workflow, wanted=["u"])["u"] == 5
    assert calls == ["a", "b", "u"]


def test_a_lazy_choice_by_a_computed_value(engine, calls):
    e = engine(cache_bytes=0)
    workflow = doc(
        n=("Number", {"value": 1}),
        a=("Number", {"value": 5}),
        b=("Number", {"value": 6}),
        k=("Choose", {"first": False, "one": "@a", "other": "@b"}),
        c=("Choose", {"first": True, "one": "@k", "other": "@n"}),
    )
    assert e.run(workflow, wanted="c")["c"] == 6
    assert calls == ["b", "k", "c"]


def test_mapping_and_collecting(engine):
    workflow = doc(
        n=("Count", {"n": 4}),
        a=("Add", {"a": "@n", "b": 10}),
        d=("DivMod", {"a": "@a", "b": 3}),
        s=("Sum", {"values": "@d.rest"}),
        r=("Repeat", {"a": "@n", "n": 2}),
        t=("Sum", {"values": "@s"}),
        f=("Show", {"what": "@d"}),
    )
    result = engine().run(workflow, wanted=["a", "d", "s", "r", "t", "f"])
    assert result["a"] == [10, 11, 12, 13]
    assert result["d.rest"] == [1, 2, 0, 1]
    assert result["s"] == result["t"] == 4
    assert result["r"] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_empty_lists_go_through(engine, calls):
    workflow = doc(
        n=("Count", {"n": 0}),
        a=("DivMod", {"a": "@n"}),
        b=("Add", {"a": "@a.rest"}),
        s=("Sum", {"values": "@b"}),
        f=("Show", {"what": "@s"}),
    )
    result = engine().run(workflow, wanted=["a", "b", "s", "f"])
    assert result.values("a") == {"quotient": [], "rest": []}
    assert result["b"] == []
    assert result["s"] == 0


def test_a_mapped_lazy_node_asks_for_each_item(engine, calls):
    workflow = doc(
        n=("Count", {"n": 2}),
        q=("DivMod", {"a": "@n", "b": 1}),
        a=("Number", {"value": 1}),
        u=("Until", {"enough": "@n", "a": "@a", "b": "@q.quotient"}),
    )
    assert engine().run(workflow, wanted=["u"])["u"] == [1, 1]  # what one item asks for, all are given
    assert calls == ["n", "a", "u", "u"]


def test_a_failure_is_told_in_full_and_leaves_independent_branches(engine):
    events = []
    workflow = doc(
        a=("Number", {"value": 5}),
        f=("Fail", {"a": "@a", "why": "the file is broken"}),
        g=("Add", {"a": "@f"}),
        sg=("Show", {"what": "@g"}),
        b=("Add", {"a": "@a"}),
        sb=("Show", {"what": "@b"}),
    )
    result = engine().run(workflow, on_event=events.append)
    assert result.status == "error"
    (failure,) = result.failures
    assert isinstance(failure, NodeFailed)
    assert (failure.node, failure.title, failure.class_type, failure.reason) == ("f", "Fail", "Fail", "error")
    assert failure.message == "the file is broken"
    assert failure.exception == "NodeError"
    assert failure.inputs == {"a": "5", "why": "'the file is broken'"}
    assert "running_nodes.py" in failure.traceback[1]
    assert "attempt.py" not in "".join(failure.traceback)
    assert result["b"] == 6
    assert set(result.executed) == {"a", "b", "sb"}
    with pytest.raises(Exception, match="node f \\(Fail\\): the file is broken"):
        result.raise_for_error()
    with pytest.raises(Exception, match="failed: the file is broken"):
        result.value("f")
    with pytest.raises(Exception, match="was not reached"):
        result.value("g")
    assert events[-1].status == "error"
    assert "the file is broken" in events[-1].message


def test_a_failed_node_is_tried_again_and_what_had_finished_is_not(engine, calls):
    e = engine()
    workflow = doc(a=("Number", {}), f=("Fail", {"a": "@a"}), s=("Show", {"what": "@f"}))
    e.run(workflow)
    calls.clear()
    assert e.run(workflow).status == "error"
    assert calls == ["f"]


def test_a_node_that_ends_the_process_only_fails(engine, monkeypatch):
    def leave(self, ctx):
        raise SystemExit(3)

    monkeypatch.setattr(running_nodes.Number, "run", leave)
    result = engine().run(doc(a=("Number", {}), s=("Show", {"what": "@a"})))
    assert result.failures[0].exception == "SystemExit"


def test_values_of_a_wrong_type_are_told_with_the_field(engine):
    workflow = doc(t=("Text", {"text": "x"}), b=("Sum", {"values": [1]}), s=("Show", {"what": "@t"}))
    e = engine()
    e.registry["Text"].run, kept = lambda self, ctx: 5, e.registry["Text"].run
    try:
        workflow = doc(t=("Text", {"text": "x"}), f=("Fail", {"why": "@t"}), s=("Show", {"what": "@f"}))
        result = e.run(workflow)
    finally:
        e.registry["Text"].run = kept
    assert "why: Input should be a valid string, got 5" in result.failures[0].message


# cancelling


def cancel_at(engine, workflow, condition, **options):
    e = engine(**options)
    events = []
    stream = e.stream(workflow, run="r")
    try:
        while True:
            event = next(stream)
            events.append(event)
            if condition(event):
                assert e.cancel("r")
    except StopIteration as end:
        return e, events, end.value


def test_cancelling_stops_between_two_steps_and_keeps_what_was_finished(engine, calls):
    workflow = doc(a=("Number", {}), s=("Steps", {"a": "@a"}), b=("Add", {"a": "@s"}), t=("Show", {"what": "@b"}))
    e, events, result = cancel_at(engine, workflow, lambda event: isinstance(event, NodeProgress))
    assert result.status == "cancelled"
    assert result.failures == ()
    assert events[-1].status == "cancelled"
    assert [event.reason for event in events if isinstance(event, NodeFailed)] == ["cancelled"]
    assert result["a"] == 0
    calls.clear()
    assert "a" in e.run(workflow.set("s.n", 1)).cached


def test_cancelling_between_nodes(engine, calls):
    _, _, result = cancel_at(engine, chain(300), lambda event: isinstance(event, NodeStarted) and event.node == "n3")
    assert result.status in ("cancelled", "success")  # the run goes on while the wish travels
    if result.status == "cancelled":
        assert "end" not in calls


def test_cancelling_async_and_overlapping_nodes(engine, calls):
    workflow = doc(a=("Later", {"seconds": 60}), b=("Show", {"what": "@a"}))
    _, _, result = cancel_at(engine, workflow, lambda event: isinstance(event, NodeStarted))
    assert result.status == "cancelled"
    assert calls == ["a begins"] or calls == []


def test_a_run_that_waits_for_its_turn_can_be_cancelled(engine):
    e = engine()
    first = e.stream(doc(a=("Steps", {}), b=("Show", {"what": "@a"})), run="first")
    while not isinstance(next(first), NodeStarted):
        pass
    second = e.stream(chain(2), run="second")
    assert next(second).kind == "run_queued"
    e.cancel("second")
    assert [event.kind for event in second] == ["run_done"]
    first.close()
    assert e.run(chain(2)).status == "success"


def test_an_unknown_run_cannot_be_cancelled(engine):
    assert engine().cancel("nobody") is False


def test_a_node_that_says_it_was_cancelled_without_a_wish_has_failed(engine, monkeypatch):
    from graph_engine.errors import Cancelled

    def stop(self, ctx):
        raise Cancelled("of my own")

    monkeypatch.setattr(running_nodes.Number, "run", stop)
    result = engine().run(doc(a=("Number", {}), s=("Show", {"what": "@a"})))
    assert result.status == "error"
    assert result.failures[0].reason == "error"


# memory


def test_out_of_memory_sheds_everything_and_tries_once_more(engine, calls):
    device = FakeDevice()
    e = engine(device=device)
    e.run(doc(a=("MakeBlob", {"size": 100_000}), r=("Read", {"blob": "@a"}), s=("Show", {"what": "@r"})))
    assert e.cache.used("device") == 100_000
    result = e.run(doc(h=("Hungry", {"times": 1}), s=("Show", {"what": "@h"})))
    assert result.status == "success"
    assert calls.count("h") == 2
    assert e.cache.used("device") == 0
    assert device.sheds


def test_out_of_memory_twice_is_a_failure_that_says_who_holds_what(engine, calls):
    e = engine()
    workflow = doc(
        b=("MakeBlob", {"size": 100_000}),
        r=("Read", {"blob": "@b"}),
        h=("Hungry", {"times": 9, "a": "@r"}),
        again=("Read", {"blob": "@b", "a": "@h"}),
        s=("Show", {"what": "@again"}),
    )
    result = e.run(workflow)
    (failure,) = result.failures
    assert failure.reason == "oom"
    assert calls.count("h") == 2
    assert [(each.owner, each.bytes) for each in failure.residents] == [("result of MakeBlob (needed)", 100_000)]
    assert e.run(doc(h=("Number", {}), s=("Show", {"what": "@h"}))).status == "success"


def test_inputs_of_a_node_are_never_shed_under_it(engine, calls):
    e = engine(cache_bytes=10)
    workflow = doc(
        a=("MakeBlob", {"size": 1000}), h=("Hungry", {"times": 1}), r=("Read", {"blob": "@a", "a": "@h"}), s=("Show", {"what": "@r"})
    )
    result = e.run(workflow, wanted=["r"])
    assert result["r"] == 1000
    assert calls.count("a") == 1


def test_values_nobody_will_read_again_are_let_go_of_early(engine, monkeypatch):
    e = engine(cache_bytes=0)
    peak = []
    run = running_nodes.Invert.run

    def watched(self, ctx):
        peak.append(e.cache.used("device"))
        return run(self, ctx)

    monkeypatch.setattr(running_nodes.Invert, "run", watched)
    nodes = {"b0": ("MakeBlob", {"size": 100_000})}
    nodes |= {f"b{i}": ("Invert", {"blob": f"@b{i - 1}"}) for i in range(1, 20)}
    result = e.run(doc(**nodes, r=("Read", {"blob": "@b19"}), s=("Show", {"what": "@r"})), wanted=["r"])
    assert result["r"] == 254 * 100_000
    assert max(peak) == 100_000
    assert e.cache.used("device") == 0
    with pytest.raises(Exception, match=r"let go of to save memory; run with wanted=\['b3'\]"):
        result.value("b3")


def test_what_left_memory_is_made_again_when_it_is_needed(engine, calls):
    e = engine(cache_bytes=150_000)
    nodes = {"b0": ("MakeBlob", {"size": 100_000})}
    nodes |= {f"b{i}": ("Invert", {"blob": f"@b{i - 1}"}) for i in range(1, 6)}
    workflow = doc(**nodes, r=("Read", {"blob": "@b5"}), s=("Show", {"what": "@r"}))
    first = e.run(workflow, wanted=["r"])
    calls.clear()
    assert e.run(workflow, wanted=["r"]).executed == ()
    second = e.run(workflow.set("r.a", 1), wanted=["r"])
    assert second["r"] == first["r"]
    assert calls[-1] == "r"


# mutation


def test_a_node_that_writes_into_its_input_fails_and_spoils_nothing(engine, calls):
    workflow = doc(
        a=("MakeBlob", {"size": 100_000, "value": 1}),
        w=("Spoil", {"blob": "@a"}),
        sw=("Show", {"what": "@w"}),
        same=("Same", {"blob": "@a"}),
        r=("Read", {"blob": "@same"}),
        sr=("Show", {"what": "@r"}),
    )
    e = engine()
    result = e.run(workflow, wanted=["w", "r"])
    (failure,) = result.failures
    assert (failure.node, failure.reason) == ("w", "mutation")
    assert "input blob" in failure.message
    assert result["r"] == 100_000
    assert e.run(workflow, wanted=["r"])["r"] == 100_000


def test_without_debug_nothing_is_compared(engine):
    result = engine(debug=False).run(doc(a=("MakeBlob", {}), w=("Spoil", {"blob": "@a"}), s=("Show", {"what": "@w"})))
    assert result.status == "success"


# beside the device


def meeting(monkeypatch):
    monkeypatch.setitem(running_nodes.gates, "x", threading.Event())
    monkeypatch.setitem(running_nodes.gates, "y", threading.Event())


def test_saving_overlaps_the_device(engine, monkeypatch):
    meeting(monkeypatch)
    workflow = doc(
        a=("Number", {}),
        save=("MeetAside", {"here": "x", "there": "y", "a": "@a"}),
        work=("MeetHere", {"here": "y", "there": "x", "a": "@a"}),
        s=("Show", {"what": "@work"}),
    )
    result = engine().run(workflow)
    assert result.status == "success", result.failures


def test_nodes_with_effects_that_ask_for_the_device_have_their_turn(engine, monkeypatch):
    inside = []

    def work(self, ctx):
        assert ctx.device
        inside.append(1)
        assert len(inside) == 1
        time.sleep(0.01)
        inside.pop()

    monkeypatch.setattr(running_nodes.MeetAside, "run", work)
    workflow = doc(**{f"s{i}": ("MeetAside", {"here": str(i), "there": ""}) for i in range(5)})
    result = engine().run(workflow)
    assert result.status == "success", result.failures


def test_async_nodes_wait_together(engine, calls):
    workflow = doc(
        **{f"l{i}": ("Later", {"seconds": 0.2, "a": i}) for i in range(5)}, s=("Sum", {"values": "@l0"}), t=("Show", {"what": "@s"})
    )
    result = engine().run(workflow, wanted=[f"l{i}" for i in range(5)])
    assert [result[f"l{i}"] for i in range(5)] == list(range(5))
    assert all(call.endswith("begins") for call in calls[:5])


def test_an_async_node_can_fail_and_be_mapped(engine):
    workflow = doc(n=("Count", {"n": 3}), l=("Later", {"a": "@n"}), s=("Sum", {"values": "@l"}))
    assert engine().run(workflow, wanted=["s"])["s"] == 3
    bad = doc(n=("Text", {}), l=("Later", {"seconds": -1.0, "a": 1}), f=("Fail", {"a": "@l"}), s=("Show", {"what": "@f"}))
    assert engine().run(bad).failures[0].node == "f"


# files


def test_saved_files_are_found_again_or_written_again(engine, tmp_path, calls):
    e = engine()
    workflow = doc(a=("Number", {"value": 4}), w=("Write", {"what": "@a"}))
    first = e.run(workflow)
    (artifact,) = first.artifacts
    assert artifact.path == str(tmp_path / "output" / "number_00001_.txt")
    second = e.run(workflow)
    assert second.executed == ()
    assert second.artifacts == first.artifacts
    (tmp_path / "output" / "number_00001_.txt").unlink()
    third = e.run(workflow)
    assert third.executed == ("w",)
    assert (tmp_path / "output" / "number_00001_.txt").read_text() == "4"


def test_another_output_folder_gets_its_own_files(engine, tmp_path):
    from graph_engine.files import Folders

    workflow = doc(w=("Write", {"what": 4}))
    engine(cache_dir=tmp_path / "cache").run(workflow)
    other = engine(cache_dir=tmp_path / "cache", folders=Folders(tmp_path / "elsewhere"))
    assert other.run(workflow).executed == ("w",)
    assert (tmp_path / "elsewhere" / "output" / "number_00001_.txt").read_text() == "4"


def test_results_survive_a_restart(engine, tmp_path, calls):
    workflow = doc(a=("MakeBlob", {"size": 100_000}), i=("Invert", {"blob": "@a"}), r=("Read", {"blob": "@i"}), w=("Write", {"what": "@r"}))
    first = engine(cache_dir=tmp_path / "cache")
    first.run(workflow)
    first.close()
    calls.clear()
    second = engine(cache_dir=tmp_path / "cache")
    result = second.run(workflow)
    assert result.executed == ()
    assert set(result.cached) == {"a", "i", "r", "w"}
    assert result["i"].x.data == b"\xfe" * 100_000
    assert second.run(workflow.set("r.a", 1)).executed == ("r",)
    assert calls == ["r"]


def test_a_damaged_cache_is_computed_anew(engine, tmp_path, calls):
    workflow = doc(a=("MakeBlob", {"size": 100_000}), i=("Invert", {"blob": "@a"}), r=("Read", {"blob": "@i"}), s=("Show", {"what": "@r"}))
    first = engine(cache_dir=tmp_path / "cache")
    expected = first.run(workflow)["r"]
    first.close()
    for path in (tmp_path / "cache" / "results").rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-10])
    calls.clear()
    second = engine(cache_dir=tmp_path / "cache")
    assert second.run(workflow.set("r.a", 1), wanted=["r"])["r"] == expected
    assert calls == ["a", "i", "r"]


def test_another_device_has_its_own_results_on_disk(engine, tmp_path, calls):
    engine(cache_dir=tmp_path / "c", device=FakeDevice(environment="fake 1.0")).run(chain(3))
    calls.clear()
    engine(cache_dir=tmp_path / "c", device=FakeDevice(environment="fake 2.0")).run(chain(3))
    assert len(calls) == 4


# size


def test_10000_nodes_in_a_chain_cold_and_cached(engine):
    e = engine(debug=False)
    workflow = chain(10_000)
    first = e.run(workflow)
    assert first["n9999"] == 9999
    assert len(first.executed) == 10_001
    assert len(e.run(workflow).cached) == 10_001


def test_a_blocked_value_blocks_what_needs_it_in_silence_unless_it_was_asked_for(engine, calls):
    workflow = doc(n=("Nothing", {}), a=("Add", {"a": "@n"}), s=("Show", {"what": "@a"}), b=("Number", {}), t=("Show", {"what": "@b"}))
    e = engine()
    for _ in range(2):
        events = []
        result = e.run(workflow, on_event=events.append)
        assert result.status == "success"
        assert not [event for event in events if getattr(event, "node", "") in ("a", "s")]
    assert calls == ["b", "t"]
    for _ in range(2):
        assert e.run(workflow, wanted=["a"]).failures[0].message == "there is nothing here"
