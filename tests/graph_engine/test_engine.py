"""The ways to run: at once, as a stream, step by step, beside an event loop; and how every one of them ends."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import running_nodes
from documents import chain, doc
from fakes import FakeDevice

from graph_engine.builder import Graph
from graph_engine.device import HostDevice
from graph_engine.engine import Engine
from graph_engine.entry import Constant
from graph_engine.errors import Cancelled, GraphError, NodeError, WorkflowError
from graph_engine.events import NodeDone, NodeProgress, NodeStarted, RunDone
from graph_engine.stream import Cancellation

ROOT = Path(__file__).parents[2]
ENDLESS = doc(a=("Number", {}), s=("Steps", {"a": "@a"}), t=("Show", {"what": "@s"}))


def test_workflows_are_taken_in_every_form(engine, tmp_path):
    e = engine()
    g = Graph(e.registry)
    g.Show(what=g.Add(a=1, b=2), _id="s")
    document = g.workflow().to_json()
    (tmp_path / "w.json").write_text(json.dumps(document))
    for form in (g, g.workflow(), document, json.dumps(document), tmp_path / "w.json"):
        assert e.run(form)["Add"] == 3


def test_a_bad_workflow_raises_with_everything_before_anything_runs(engine, calls):
    events = []
    workflow = doc(a=("Number", {"value": 1}), b=("Add", {"a": "@a", "b": "x"}), c=("Shw", {"what": "@b"}), s=("Show", {"what": "@zz"}))
    with pytest.raises(WorkflowError) as raised:
        engine().run(workflow, on_event=events.append)
    assert {problem.code for problem in raised.value.problems} >= {"wrong_type", "unknown_node", "dangling_link"}
    assert (calls, events) == ([], [])


def test_wanted_nodes_are_given_by_id_or_title(engine):
    workflow = doc(a=("Number", {"value": 3}), b=("Add", {"a": "@a"}))
    assert engine().run(workflow, wanted=["Add"])["b"] == 4
    with pytest.raises(WorkflowError, match="no node 'zz'"):
        engine().run(workflow, wanted=["zz"])


def test_results_by_name_position_title_and_address(engine):
    result = engine().run(doc(d=("DivMod", {"a": 17}), s=("Show", {"what": "@d"})), wanted=["d"])
    assert result.value("d") == result.value("DivMod") == result["d"] == result["d.quotient"] == result["d.0"] == 5
    assert result.value("d", "rest") == result.value("d", 1) == result["d.rest"] == result["DivMod.rest"] == 2
    assert result.values("d") == {"quotient": 5, "rest": 2}
    with pytest.raises(KeyError, match="no output 'product'; outputs: quotient, rest"):
        result.value("d", "product")
    with pytest.raises(KeyError, match="no node"):
        result.value("nobody")
    with pytest.raises(NodeError, match="was not reached"):
        result.value("s")


def test_values_asked_for_stay_even_without_a_cache(engine):
    result = engine(cache_bytes=0).run(doc(b=("MakeBlob", {"size": 5}), i=("Invert", {"blob": "@b"})), wanted=["b", "i"])
    assert result["b"].x.data == b"\x01" * 5
    assert result["i"].x.data == b"\xfe" * 5


def test_old_nodes_are_raised_before_they_run(engine):
    from simple_nodes import Blank, Turn

    from graph_engine.registry import Registry

    seen = []
    document = {
        "1": {"class_type": "Blank", "inputs": {}},
        "2": {"class_type": "Turn", "inputs": {"picture": ["1", 0], "quarters": 2}, "_meta": {"version": 1}},
    }
    with Engine(Registry.of(Blank, Turn), device=HostDevice()) as e:
        for step in e.steps(document, wanted=["2"]):
            seen.append(step.class_type)
    assert seen == ["Blank", "Turn"]


def test_constants_that_exist_only_in_memory_can_be_run_but_not_written(engine):
    workflow = doc(a=("Add", {"a": 1}), s=("Show", {"what": "@a"})).set("a.a", Constant(41, "my number"))
    e = engine()
    assert e.run(workflow)["a"] == 42
    assert e.run(workflow).executed == ()


def test_what_was_submitted_reaches_the_nodes(engine, monkeypatch):
    seen = {}
    monkeypatch.setattr(running_nodes.Show, "run", lambda self, ctx: seen.update(workflow=ctx.workflow, extra=ctx.extra, title=ctx.title))
    workflow = doc(a=("Number", {"value": 1}), s=("Show", {"what": "@a"}))
    engine().run(workflow, extra={"extra_pnginfo": {"workflow": 1}})
    assert seen == {"workflow": workflow.to_json(), "extra": {"extra_pnginfo": {"workflow": 1}}, "title": "Show"}


def test_a_stream_gives_events_and_then_the_result(engine):
    stream = engine().stream(chain(3))
    events = []
    while True:
        try:
            events.append(next(stream))
        except StopIteration as end:
            result = end.value
            break
    assert isinstance(events[-1], RunDone)
    assert result["n2"] == 2


def test_closing_a_stream_cancels_the_run(engine):
    e = engine()
    stream = e.stream(ENDLESS)
    while not isinstance(next(stream), NodeProgress):
        pass
    stream.close()
    assert e.run(chain(2)).status == "success"


def test_a_listener_that_raises_cancels_and_hears_the_rest(engine):
    heard = []

    def listen(event):
        heard.append(event)
        if isinstance(event, NodeStarted) and event.node == "s":
            raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        engine().run(ENDLESS, on_event=listen)
    assert isinstance(heard[-1], RunDone)
    assert heard[-1].status == "cancelled"


def test_a_cancelled_result_says_so(engine):
    e = engine()

    def listen(event):
        if isinstance(event, NodeProgress):
            e.cancel(event.run)

    result = e.run(ENDLESS, on_event=listen)
    assert result.status == "cancelled"
    with pytest.raises(Cancelled):
        result.raise_for_error()


def test_step_by_step_with_values_at_every_node(engine, calls):
    e = engine(cache_bytes=0)
    steps = e.steps(
        doc(
            a=("Number", {"value": 3}),
            d=("DivMod", {"a": "@a", "b": 2}),
            f=("Fail", {"a": "@d.rest"}),
            s=("Show", {"what": "@f"}),
            t=("Show", {"what": "@d"}),
        )
    )
    first = next(steps)
    assert (first.node, first.class_type, first.value(), first.cached) == ("a", "Number", 3, False)
    assert calls == ["a"]  # nothing runs ahead
    second = next(steps)
    assert second.values() == {"quotient": 1, "rest": 1}
    assert second.value("rest") == 1
    rest = {step.node: step for step in steps}
    assert set(rest) == {"f", "t"}
    assert rest["f"].failure.message == "no luck"
    with pytest.raises(NodeError, match="no luck"):
        rest["f"].value()


def test_steps_through_a_cached_run(engine):
    e = engine()
    e.run(chain(3))
    steps = list(e.steps(chain(3)))
    assert all(step.cached for step in steps)
    assert [step.value() for step in steps if step.class_type == "Add"] == [1, 2]


def test_something_else_may_run_between_two_steps(engine):
    e = engine()
    steps = e.steps(chain(3))
    next(steps)
    assert e.run(chain(5))["n4"] == 4
    assert len(list(steps)) == 3


def test_leaving_the_steps_cancels_the_run(engine, calls):
    e = engine()
    for step in e.steps(chain(10)):
        if step.node == "n2":
            break
    del step
    import gc

    gc.collect()  # the generator that the loop held
    assert calls == ["n0", "n1", "n2"]
    assert e.run(chain(2)).status == "success"


def test_beside_a_running_loop(engine):
    e = engine()

    async def main():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.001)

        ticking = asyncio.create_task(tick())
        events = [event async for event in e.astream(doc(a=("Later", {"seconds": 0.1}), s=("Show", {"what": "@a"})))]
        result = await e.arun(chain(3))
        blocking = e.run(chain(4))  # as in a notebook
        ticking.cancel()
        return ticks, events, result, blocking

    ticks, events, result, blocking = asyncio.run(main())
    assert ticks > 3
    assert events[-1].status == "success"
    assert result["n2"] == 2
    assert blocking["n3"] == 3


def test_leaving_or_cancelling_beside_a_loop_cancels_the_run(engine):
    e = engine()

    async def main():
        async for event in e.astream(ENDLESS):
            if isinstance(event, NodeProgress):
                break
        task = asyncio.create_task(e.arun(ENDLESS))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert e.run(chain(2)).status == "success"


def test_runs_from_several_threads_take_turns(engine):
    e = engine()
    results = []
    threads = [threading.Thread(target=lambda i=i: results.append(e.run(chain(20, start=i))["n19"] - i)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [19] * 6


def test_one_id_cannot_run_twice_at_once(engine):
    e = engine()
    stream = e.stream(ENDLESS, run="r")
    while not isinstance(next(stream), NodeStarted):
        pass
    with pytest.raises(GraphError, match="'r' is going on already"):
        e.run(chain(2), run="r")
    stream.close()


def test_a_node_that_would_wait_for_itself_is_refused(engine, monkeypatch):
    e = engine()
    monkeypatch.setattr(running_nodes.Number, "run", lambda self, ctx: e.run(chain(1)) and 1)
    result = e.run(doc(a=("Number", {}), s=("Show", {"what": "@a"})))
    assert "cannot use the engine that runs it" in result.failures[0].message


def test_a_listener_may_run_something(engine):
    e = engine()
    inner = []
    e.run(chain(2), on_event=lambda event: inner.append(e.run(chain(3))["n2"]) if isinstance(event, RunDone) else None)
    assert inner == [2]


def test_closing_cancels_and_a_later_run_opens_again(engine, tmp_path):
    e = engine(cache_dir=tmp_path / "c")
    thread = threading.Thread(
        target=lambda: results.append(e.run(ENDLESS, on_event=lambda event: started.set() if isinstance(event, NodeProgress) else None))
    )
    started, results = threading.Event(), []
    thread.start()
    assert started.wait(30)
    e.close()
    thread.join()
    assert results[0].status == "cancelled"
    assert e.run(chain(2)).status == "success"


def test_an_engine_without_a_device_package_takes_the_host(monkeypatch):
    monkeypatch.setattr("graph_engine.device.importlib.metadata.entry_points", lambda group: ())
    with Engine(running_nodes.registry()) as e:
        assert isinstance(e.device, HostDevice)
    with pytest.raises(GraphError, match="device 'cuda': no package"):
        Engine(running_nodes.registry(), device="cuda").device  # noqa: B018


def test_a_mistake_of_the_engine_ends_the_run_and_is_raised(engine, monkeypatch):
    e = engine()
    events = []
    monkeypatch.setattr("graph_engine.executor.storages", lambda value: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        e.run(chain(2), on_event=events.append)
    assert events[-1].status == "error"
    assert "ZeroDivisionError" in events[-1].message


def test_seconds_and_bytes_are_told(engine):
    events = []
    engine().run(doc(b=("MakeBlob", {"size": 1000}), r=("Read", {"blob": "@b"}), s=("Show", {"what": "@r"})), on_event=events.append)
    done = {event.node: event for event in events if isinstance(event, NodeDone)}
    assert done["b"].bytes == 1000 + 16 + len("blob 1")
    assert all(event.seconds > 0 for event in done.values())


def test_ctrl_c_cancels_waits_and_is_raised(tmp_path):
    code = """
        import os, signal, sys, threading
        sys.path[:0] = [{root!r}, {here!r}]
        from documents import doc
        import running_nodes
        from graph_engine.device import HostDevice
        from graph_engine.engine import Engine
        from graph_engine.events import NodeProgress
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent in the background may have had it ignored
        seen = []
        def listen(event):
            seen.append(event)
            if isinstance(event, NodeProgress) and len(seen) == 6:
                os.kill(os.getpid(), signal.SIGINT)
        engine = Engine(running_nodes.registry(), device=HostDevice())
        workflow = doc(a=("Number", {{}}), s=("Steps", {{"a": "@a"}}), t=("Show", {{"what": "@s"}}))
        try:
            engine.run(workflow, on_event=listen)
        except KeyboardInterrupt:
            print("interrupted", seen[-1].status, threading.active_count())
            print(engine.run(doc(a=("Number", {{}}), t=("Show", {{"what": "@a"}}))).status)
    """
    here = str(Path(__file__).parent)
    script = textwrap.dedent(code).format(root=str(ROOT), here=here)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, env={**os.environ})
    assert done.stdout.split() == ["interrupted", "cancelled", "1", "success"], done.stderr


def test_ctrl_c_while_waiting_for_a_silent_run(tmp_path):
    """Without a listener the main thread only waits; it is interrupted all the same."""
    code = """
        import os, signal, sys, threading, time
        sys.path[:0] = [{root!r}, {here!r}]
        from documents import doc
        import running_nodes
        from graph_engine.device import HostDevice
        from graph_engine.engine import Engine
        engine = Engine(running_nodes.registry(), device=HostDevice())
        workflow = doc(a=("Number", {{}}), s=("Steps", {{"a": "@a"}}), t=("Show", {{"what": "@s"}}))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        def interrupt():
            while "s" not in running_nodes.calls:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=interrupt).start()
        try:
            engine.run(workflow)
        except KeyboardInterrupt:
            print("interrupted", running_nodes.calls, signal.getsignal(signal.SIGINT) is signal.default_int_handler)
    """
    script = textwrap.dedent(code).format(root=str(ROOT), here=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, env={**os.environ})
    assert done.stdout.strip() == "interrupted ['a', 's'] True", done.stderr


def test_the_engine_needs_no_torch():
    code = "import sys, graph_engine.engine; print([name for name in ('torch', 'numpy', 'safetensors', 'nodes') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr


def test_devices_are_shared_with_other_tenants(engine):
    device = FakeDevice(budget=150_000)
    e = engine(device=device)
    workflow = doc(a=("MakeBlob", {"size": 2_000_000}), r=("Read", {"blob": "@a"}), s=("Show", {"what": "@r"}))
    assert e.run(workflow, wanted=["r"])["r"] == 2_000_000
    assert sum(size for _, size in device.residents()) <= 150_000


def test_perform_runs_in_the_calling_thread(engine):
    e, events = engine(), []
    threads = set()

    def hear(event):
        threads.add(threading.current_thread())
        events.append(event)

    result = e.perform(doc(a=("Number", {"value": 3}), b=("Add", {"a": "@a"})), wanted=["b"], on_event=hear, run="mine")
    assert (result["b"], result.run, threads) == (4, "mine", {threading.current_thread()})
    assert isinstance(events[-1], RunDone)
    with pytest.raises(WorkflowError):
        e.perform(doc(a=("Nothing", {})))


def test_perform_ends_when_its_cancellation_is_set_before_or_meanwhile(engine):
    e, early, late = engine(), Cancellation(), Cancellation()
    early.set()
    assert e.perform(ENDLESS, cancellation=early).status == "cancelled"
    result = e.perform(ENDLESS, cancellation=late, on_event=lambda event: late.set() if isinstance(event, NodeProgress) else None)
    assert result.status == "cancelled"
    assert e.run(doc(a=("Number", {"value": 3})), wanted=["a"])["a"] == 3


def test_perform_takes_its_turn(engine):
    e, order = engine(), []
    late = Cancellation()

    def hear(event):
        if isinstance(event, NodeProgress) and not order:
            order.append("began")
            other.start()
            late.set()

    other = threading.Thread(target=lambda: order.append(e.perform(doc(a=("Number", {"value": 3})), wanted=["a"])["a"]))
    e.perform(ENDLESS, cancellation=late, on_event=hear)
    order.append("ended")
    other.join()
    assert sorted(map(str, order)) == ["3", "began", "ended"]


def test_check_gives_what_run_would_raise(engine):
    e = engine()
    wrong = doc(a=("Number", {"value": "x"}), s=("Show", {"what": "@a"}))
    with pytest.raises(WorkflowError) as raised:
        e.run(wrong)
    assert e.check(wrong) == list(raised.value.problems)
    assert e.check(doc(a=("Number", {}), s=("Show", {"what": "@a"}))) == []
    assert [problem.code for problem in e.check("{")] == ["bad_json"]


def test_free_drops_results_or_weights_between_runs(engine, calls):
    class Weighty(FakeDevice):
        unloaded = 0

        def unload(self):
            self.unloaded += 1

    device = Weighty()
    e = engine(device=device, cache_bytes=1 << 20)
    workflow = doc(a=("Number", {"value": 3}), s=("Show", {"what": "@a"}))
    for options, runs in (({}, 2), ({"models": True}, 2), ({"results": True}, 4)):
        e.free(**options)
        e.run(workflow)
        assert len(calls) == runs
    assert device.unloaded == 1


def test_free_counts_what_it_gave_back(engine):
    class Holder:
        held = 1000

        def residents(self):
            return [("weights", self.held)]

        def shed(self, bytes):
            return 0

    class Weighty(FakeDevice):
        def unload(self):
            holder.held = 200

    holder, device = Holder(), Weighty()
    device.add_tenant(holder)
    e = engine(device=device)
    assert e.memory() == [("weights", 1000)]
    assert e.free(models=True) == 800
    assert e.memory() == [("weights", 200)]
