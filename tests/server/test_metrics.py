import re

from graph_engine.events import NodeCached, NodeDone, NodeFailed, RunDone
from server.metrics import Metrics
from server.protocol.story import Story
from server.runs import Run


def counted(*events):
    run = Run(
        id="r",
        number=1.0,
        status="running",
        document={"1": {"class_type": "Draw", "inputs": {}}, "2": {"class_type": "Save", "inputs": {}}},
        targets=("2",),
        extra={},
        client="",
        created=0,
    )
    metrics = Metrics()
    teller = metrics.watch(run, Story(run))
    for event in events:
        teller.tell(event)
    return metrics, teller


def value(metrics, line, present=()):
    found = re.search(rf"^{re.escape(line)} (\S+)$", metrics.text(present).decode(), re.MULTILINE)
    assert found, metrics.text(present).decode()
    return float(found[1])


def test_a_run_is_counted_while_its_story_is_told():
    metrics, teller = counted(
        NodeCached(run="r", node="1", parent="1"),
        NodeDone(run="r", node="2", parent="2", seconds=3.0, bytes=1, ui={"text": ["x"]}),
        NodeDone(run="r", node="2.0.1", parent="2", seconds=4.0, bytes=1),
        RunDone(run="r", status="success", seconds=7.5, executed=2, cached=1),
    )
    assert value(metrics, 'latentgraph_cache_total{result="hit"}') == 1
    assert value(metrics, 'latentgraph_cache_total{result="miss"}') == 2
    assert value(metrics, 'latentgraph_node_seconds_sum{type="Save"}') == 7.0
    assert value(metrics, 'latentgraph_runs_total{status="success"}') == 1
    assert value(metrics, "latentgraph_run_seconds_sum") == 7.5
    assert teller.outputs["2"] == {"text": ["x"]}
    assert teller.messages[-1][0] == "execution_success"


def test_failures_are_counted_by_type_and_reason():
    failed = NodeFailed(run="r", node="1", parent="1", reason="oom", title="", class_type="Draw", message="no room")
    metrics, teller = counted(failed, RunDone(run="r", status="error", seconds=1, executed=0, cached=0))
    assert value(metrics, 'latentgraph_node_failures_total{reason="oom",type="Draw"}') == 1
    assert value(metrics, 'latentgraph_runs_total{status="error"}') == 1
    assert teller.error["node_id"] == "1"


def test_the_present_is_told_anew_each_time_and_equal_labels_add_up():
    metrics = Metrics()
    samples = [("held_bytes", "Held", {"owner": "a"}, 2.0), ("held_bytes", "Held", {"owner": "a"}, 3.0), ("queue", "Queue", {}, 7)]
    assert value(metrics, 'held_bytes{owner="a"}', samples) == 5
    assert value(metrics, "queue", samples) == 7
    assert b"held_bytes" not in metrics.text([])
