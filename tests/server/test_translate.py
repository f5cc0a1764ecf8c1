"""What a server says of a run, turned back into events, is what the engine said, as far as a person sees it."""

from typing import Any

import pytest

from graph_engine.events import (
    Artifact,
    NodeCached,
    NodeDone,
    NodeFailed,
    NodeProgress,
    NodeStarted,
    RunDone,
    RunStarted,
)
from server.protocol.messages import Message
from server.protocol.story import Story
from server.runs import Run
from server.translate import Translation, files_in

DOCUMENT: dict[str, Any] = {
    "1": {"class_type": "Load", "inputs": {}},
    "2": {"class_type": "Draw", "inputs": {"x": ["1", 0]}, "_meta": {"title": "Drawing"}},
    "3": {"class_type": "Save", "inputs": {"x": ["2", 0]}},
    "4": {"class_type": "Save", "inputs": {"x": ["1", 0]}},
}
PICTURE = Artifact(path="/there/output/a_1_.png", filename="a_1_.png", type="output", media="image/png")


def through(*events):
    """The events, told by a Story and heard by a Translation."""
    run = Run(id="r", number=1.0, status="running", document=DOCUMENT, targets=("3", "4"), extra={}, client="me", created=0)
    story, heard = Story(run), Translation("r", DOCUMENT, {"3", "4"})
    made = []
    for event in events:
        for told in story.tell(event):
            if isinstance(told, Message):
                made += heard.hear({"type": told.type, "data": told.data})
    return heard, [*made, *heard.hear({"type": "executing", "data": {"node": None}})]


def of(kind, made):
    return [event for event in made if isinstance(event, kind)]


def node(kind, id, **more):
    return kind(run="r", node=id, parent=id, **more)


def test_a_run_that_succeeds():
    _, made = through(
        RunStarted(run="r", nodes=tuple(DOCUMENT), titles={}),
        node(NodeCached, "1"),
        node(NodeCached, "4", ui={"text": ["hello"]}),
        node(NodeStarted, "2"),
        node(NodeProgress, "2", step=1, steps=2),
        node(NodeProgress, "2", step=2, steps=2),
        node(NodeDone, "2", seconds=1, bytes=5),
        node(NodeStarted, "3"),
        node(NodeDone, "3", seconds=1, bytes=0, artifacts=(PICTURE,)),
        RunDone(run="r", status="success", seconds=2, executed=2, cached=2),
    )
    (started,) = of(RunStarted, made)
    assert started.titles == {"1": "Load", "2": "Drawing", "3": "Save", "4": "Save"}
    assert {event.node: event.ui for event in of(NodeCached, made)} == {"1": {}, "4": {"text": ["hello"]}}
    assert [event.node for event in of(NodeStarted, made)] == ["2", "3"]
    assert [(event.step, event.steps) for event in of(NodeProgress, made)] == [(1, 2), (2, 2)]
    assert [(event.node, len(event.artifacts)) for event in of(NodeDone, made)] == [("2", 0), ("3", 1)]
    (done,) = of(RunDone, made)
    assert (done.status, done.executed, done.cached, len(done.artifacts)) == ("success", 2, 2, 1)
    assert made[-1] is done
    assert [event.seq for event in made] == [*range(1, len(made) + 1)]


def test_files_are_where_they_were_put():
    heard = Translation("r", DOCUMENT, {"3"})
    output = {"images": [{"filename": "a_1_.png", "subfolder": "s", "type": "output"}]}
    (item,) = files_in(output)
    heard.paths[item["filename"], item["subfolder"], item["type"]] = "/here/s/a_1_.png"
    *_, done = heard.hear({"type": "executed", "data": {"node": "3", "display_node": "3", "output": output}})
    assert [artifact.path for artifact in done.artifacts] == ["/here/s/a_1_.png"]


def test_several_failures_are_all_told_and_the_run_failed():
    fault = {"reason": "error", "title": "", "exception": "ValueError", "traceback": ("here\n",)}
    heard, made = through(
        RunStarted(run="r", nodes=tuple(DOCUMENT), titles={}),
        node(NodeStarted, "1"),
        node(NodeFailed, "1", class_type="Load", message="no file", inputs={"name": "x"}, **fault),
        node(NodeStarted, "2"),
        node(NodeFailed, "2", class_type="Draw", message="no ink", **fault),
        RunDone(run="r", status="error", seconds=1, executed=0, cached=0),
    )
    failed = of(NodeFailed, made)
    assert {(event.node, event.class_type, event.message) for event in failed} == {("1", "Load", "no file"), ("2", "Draw", "no ink")}
    assert any(event.inputs == {"name": "x"} for event in failed)
    assert ["here\n"] in [list(failure.traceback) for failure in heard.failures]
    assert heard.status == "error"
    assert of(RunDone, made)[0].status == "error"


def test_a_run_that_is_interrupted():
    heard, made = through(
        RunStarted(run="r", nodes=tuple(DOCUMENT), titles={}),
        node(NodeStarted, "1"),
        RunDone(run="r", status="cancelled", seconds=1, executed=0, cached=0),
    )
    assert heard.status == "cancelled"
    assert of(NodeDone, made) == []


@pytest.mark.parametrize("count", [1, 40, 400])
def test_every_node_of_a_large_run_is_told_once(count):
    names = [str(number) for number in range(count)]
    events = [RunStarted(run="r", nodes=tuple(names), titles={})]
    for name in names:
        events += [node(NodeStarted, name), node(NodeDone, name, seconds=0, bytes=0)]
    _, made = through(*events, RunDone(run="r", status="success", seconds=1, executed=count, cached=0))
    assert sorted(event.node for event in of(NodeDone, made)) == sorted(names)
    assert of(RunDone, made)[0].executed == count
