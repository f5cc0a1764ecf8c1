"""What a client is told of runs of the real engine: the order of the messages, and what the history keeps."""

from __future__ import annotations

import json
from typing import Any

import pytest
from told_nodes import doc, engine, events_of

from graph_engine.events import Artifact, NodeFailed, NodePreview, NodeStarted, Resident, RunDone, RunStarted
from graph_engine.files import Folders
from server.protocol.messages import Message, Preview, encode
from server.protocol.story import Story, shown
from server.runs import Run

CHAIN = doc(n=("Number", {"value": 3}), a=("Add", {"a": "@n"}), s=("Show", {"what": "@a"}))


def run_of(document: dict[str, Any], *targets: str) -> Run:
    return Run("r", 1.0, "running", document, targets, {}, "me", 0)


def told(document: dict[str, Any], *targets: str, by: Any = None, **options: Any) -> tuple[Story, list[Message]]:
    story = Story(run_of(document, *targets))
    by = by or engine()
    messages = [message for event in events_of(by, document, wanted=targets or None, **options) for message in story.tell(event)]
    return story, [each for each in messages if isinstance(each, Message)]


def brief(messages: list[Message]) -> list[str]:
    """Types, with the node; a progress_state as the states it holds."""
    found = []
    for each in messages:
        if each.type == "progress_state":
            states = [f"{id}={state['state']}" for id, state in each.data["nodes"].items()]
            found.append(" ".join(["state", *states]))
        else:
            found.append(f"{each.type} {each.data['node']}" if each.data.get("node") else each.type)
    return found


def test_a_normal_run_is_told_in_the_order_of_the_protocol():
    story, messages = told(CHAIN, "s")
    assert brief(messages) == [
        "execution_start",
        "execution_cached",
        "state n=running",
        "executing n",
        "state n=finished",
        "state n=finished a=running",
        "executing a",
        "state n=finished a=finished",
        "state n=finished a=finished s=running",
        "executing s",
        "executed s",
        "state n=finished a=finished s=finished",
        "execution_success",
    ]
    assert all(each.data["prompt_id"] == "r" for each in messages)
    assert story.outputs == {"s": {"text": ["4"]}}
    assert story.meta == {"s": {"node_id": "s", "display_node": "s", "parent_node": None, "real_node_id": "s"}}
    assert [type for type, _ in story.messages] == ["execution_start", "execution_cached", "execution_success"]
    assert all(isinstance(data["timestamp"], int) and data["timestamp"] > 1e12 for _, data in story.messages)
    assert story.error is None


def test_what_passes_by_is_not_kept_and_every_change_of_state_is():
    _, messages = told(doc(t=("Stepped", {}), s=("Show", {"what": "@t"})), "s")
    assert {each.type for each in messages if not each.keep} == {"progress_state", "progress"}
    assert {each.type for each in messages if each.keep} >= {
        "execution_start",
        "execution_cached",
        "executing",
        "executed",
        "execution_success",
    }


def test_progress_has_the_state_first():
    _, messages = told(doc(t=("Stepped", {"steps": 2}), s=("Show", {"what": "@t"})), "s")
    steps = [(i, each) for i, each in enumerate(messages) if each.type == "progress"]
    assert [(each.data["value"], each.data["max"], each.data["node"]) for _, each in steps] == [(1, 2, "t"), (2, 2, "t")]
    for i, each in steps:
        state = messages[i - 1].data["nodes"]["t"]
        assert (state["value"], state["max"], state["state"]) == (each.data["value"], 2, "running")
    state = next(each for each in messages if each.type == "progress_state" and each.data["nodes"]["t"]["state"] == "finished")
    assert state.data["nodes"]["t"] == {
        "value": 2,
        "max": 2,
        "state": "finished",
        "node_id": "t",
        "prompt_id": "r",
        "display_node_id": "t",
        "parent_node_id": None,
        "real_node_id": "t",
    }


def test_an_unchanged_run_tells_outputs_from_the_cache_and_runs_nothing(tmp_path):
    same = engine(Folders(tmp_path))
    document = doc(n=("Number", {}), s=("Show", {"what": "@n"}), k=("Keep", {"what": "@n"}), q=("Quiet", {"what": "@n"}))
    first, _ = told(document, "s", "k", "q", by=same)
    story, messages = told(document, "s", "k", "q", by=same)
    assert brief(messages)[0] == "execution_start"
    assert messages[1].type == "execution_cached"
    assert sorted(messages[1].data["nodes"]) == ["k", "n", "q", "s"]
    assert sorted(brief(messages[2:5])) == ["executed k", "executed q", "executed s"]
    assert sorted(brief(messages)[5].split()) == sorted(["state", "k=finished", "q=finished", "s=finished"])
    assert brief(messages)[6:] == ["execution_success"]
    outputs = {each.data["node"]: each.data["output"] for each in messages[2:5]}
    assert outputs["q"] is None
    assert outputs["k"] == first.outputs["k"]
    assert story.outputs == first.outputs


def test_only_what_is_downstream_of_a_change_runs_again():
    same = engine()
    told(CHAIN, "s", by=same)
    changed = doc(n=("Number", {"value": 3}), a=("Add", {"a": "@n", "b": 2}), s=("Show", {"what": "@a"}))
    _, messages = told(changed, "s", by=same)
    assert messages[1].data["nodes"] == ["n"]
    assert [each.data["node"] for each in messages if each.type == "executing"] == ["a", "s"]


def test_nodes_found_in_the_cache_later_are_told_when_they_are_found():
    same = engine()
    document = doc(n=("Number", {"value": 4}), h=("Halve", {"a": "@n"}), a=("Add", {"a": "@h"}), s=("Show", {"what": "@a"}))
    told(document, "s", by=same)
    document["n"]["inputs"]["value"] = 5
    _, messages = told(document, "s", by=same)
    kinds = [each.type for each in messages if each.type != "progress_state"]
    assert kinds == ["execution_start", "execution_cached", "executing", "executing", "execution_cached", "executed", "execution_success"]
    assert [each.data["nodes"] for each in messages if each.type == "execution_cached"] == [[], ["a", "s"]]


def test_a_failure_is_marked_at_once_and_told_last():
    document = doc(
        f=("Fail", {"a": 5}),
        g=("Fail", {"why": "again"}),
        s=("Show", {"what": "@f"}),
        t=("Show", {"what": "@g"}),
        n=("Number", {}),
        u=("Show", {"what": "@n"}),
    )
    story, messages = told(document, "s", "t", "u")
    lines = brief(messages)
    assert any("f=error" in line for line in lines)
    assert lines[-1] == "execution_error"
    assert "execution_success" not in lines
    assert "executed u" in lines  # what does not depend on it goes on
    error = messages[-1].data
    assert error == story.error
    assert (error["node_id"], error["node_type"], error["exception_message"], error["exception_type"]) == (
        "f",
        "Fail",
        "no luck",
        "NodeError",
    )
    assert sorted(error["executed"]) == ["n", "u"]
    assert sorted(error["current_outputs"]) == ["n", "u"]
    assert error["current_inputs"]["a"] == ["5"]
    assert isinstance(error["traceback"], list)
    assert any("told_nodes" in line for line in error["traceback"])
    assert [each["exception_message"] for each in error["failures"]] == ["no luck", "again"]


def test_a_cancelled_run_says_where_it_stood():
    document = doc(t=("Stepped", {"steps": 1000, "seconds": 30.0}), s=("Show", {"what": "@t"}))
    by, story, messages = engine(), Story(run_of(document, "s")), []
    for event in by.stream(document, run="r"):
        messages += story.tell(event)
        if messages and messages[-1].type == "progress":
            by.cancel("r")
    assert messages[-1].type == "execution_interrupted"
    data = messages[-1].data
    assert (data["node_id"], data["node_type"], data["executed"]) == ("t", "Stepped", [])
    assert [each.type for each in messages].count("execution_interrupted") == 1
    assert story.error is None
    assert messages[-2].type == "progress_state"
    assert messages[-2].data["nodes"] == {}  # nothing is left running on the canvas
    assert story.messages[-1] == ["execution_interrupted", data]


def test_expanded_nodes_show_where_they_stand_for_and_add_up():
    story, messages = told(doc(n=("Number", {"value": 7}), b=("Both", {"a": "@n"})), "b")
    executed = [each.data for each in messages if each.type == "executed"]
    assert [(each["node"], each["display_node"], each.get("merge")) for each in executed] == [("b.s0", "b", None), ("b.s1", "b", True)]
    assert story.meta["b.s1"] == {"node_id": "b.s1", "display_node": "b", "parent_node": "b", "real_node_id": "b"}
    states = [each.data["nodes"] for each in messages if each.type == "progress_state"]
    inner = next(nodes["b.s0"] for nodes in states if "b.s0" in nodes)
    assert (inner["display_node_id"], inner["parent_node_id"], inner["real_node_id"]) == ("b", "b", "b")
    assert states[-1]["b"]["state"] == "finished"
    started = [(each.data["node"], each.data["display_node"]) for each in messages if each.type == "executing"]
    assert started[0] == ("n", "n")
    assert {display for node, display in started if node.startswith("b")} == {"b"}


def test_a_failure_inside_an_expansion_is_the_failure_of_the_node_it_stands_for():
    story = Story(run_of(doc(b=("Both", {"a": 1})), "b"))
    story.tell(RunStarted(run="r", nodes=("b",), titles={}))
    story.tell(NodeStarted(run="r", node="b.s0", parent="b"))
    story.tell(NodeFailed(run="r", node="b.s0", parent="b", reason="error", title="Show", class_type="Show", message="oh"))
    story.tell(RunDone(run="r", status="error", seconds=0, executed=0, cached=0))
    assert story.error is not None
    assert story.error["node_id"] == "b"


def test_a_run_whose_worker_died_names_the_node_it_was_at():
    story = Story(run_of(CHAIN, "s"))
    messages = [*story.tell(RunStarted(run="r", nodes=("n", "a", "s"), titles={})), *story.tell(NodeStarted(run="r", node="a", parent="a"))]
    messages += story.tell(RunDone(run="r", status="error", seconds=0, executed=0, cached=0, message="killed by signal 9"))
    assert story.error is not None
    assert (story.error["node_id"], story.error["node_type"], story.error["exception_message"]) == ("a", "Add", "killed by signal 9")
    assert messages[-1].type == "execution_error"


def test_a_failure_of_no_node_is_told_as_one_of_the_service():
    story = Story(run_of(CHAIN, "s"))
    told = [*story.tell(NodeFailed(run="r", node="", parent="", reason="error", title="", class_type="", message="died"))]
    told += story.tell(RunDone(run="r", status="error", seconds=0, executed=0, cached=0))
    assert [each.type for each in told] == ["execution_start", "execution_cached", "execution_error"]
    assert story.error is not None
    assert (story.error["node_id"], story.error["exception_message"]) == ("", "died")


def test_out_of_memory_says_who_holds_what():
    story = Story(run_of(CHAIN, "s"))
    held = (Resident(owner="unet", place="cuda", bytes=3_200_000_000),)
    failure = NodeFailed(run="r", node="a", parent="a", reason="oom", title="", class_type="Add", message="no room", residents=held)
    story.tell(failure)
    story.tell(RunDone(run="r", status="error", seconds=0, executed=0, cached=0))
    assert story.error is not None
    assert story.error["exception_message"].startswith("no room\n")
    assert "unet 3,200 MB" in story.error["exception_message"]


def test_a_preview_is_not_told_for_nodes_with_effects():
    story = Story(run_of(CHAIN, "s"))
    told = [each for node in ("n", "s") for each in story.tell(NodePreview(run="r", node=node, parent=node, data=b"\xff\xd8"))]
    assert [each.node for each in told if isinstance(each, Preview)] == ["n"]
    inner = next(each for each in story.tell(NodePreview(run="r", node="n.0", parent="n", data=b"")) if isinstance(each, Preview))
    assert (inner.display_node, inner.parent, inner.real) == ("n", "n", "n")


def test_nothing_is_told_after_the_end():
    story = Story(run_of(CHAIN, "s"))
    story.tell(RunDone(run="r", status="success", seconds=0, executed=0, cached=0))
    assert story.tell(NodeStarted(run="r", node="n", parent="n")) == []


@pytest.mark.parametrize(
    ("name", "media", "key"),
    [
        ("a.png", "image/png", "images"),
        ("a.flac", "audio/flac", "audio"),
        ("a.mp4", "video/mp4", "video"),
        ("a.glb", "model/gltf-binary", "3d"),
        ("a.latent", "application/octet-stream", "latents"),
        ("a.bin", "application/octet-stream", "files"),
    ],
)
def test_files_are_shown_by_their_kind(name, media, key):
    item = {"filename": name, "subfolder": "sub", "type": "temp"}
    assert shown([Artifact(path="/x", media=media, **item)], {}) == {key: [item]}


def test_what_a_node_shows_itself_joins_its_files():
    files = [Artifact(path="/x", filename="a.png", media="image/png")]
    more = {"filename": "b.png", "subfolder": "", "type": "output"}
    found = shown(files, {"images": [more], "text": ["hi"]})
    assert [each["filename"] for each in found["images"]] == ["a.png", "b.png"]
    assert found["text"] == ["hi"]


def bytes_of(count: int, *, failing: bool = False) -> tuple[int, list[Message]]:
    nodes = {"0": ("Number", {"value": 1})} | {str(i): ("Add", {"a": f"@{i - 1}"}) for i in range(1, count)}
    if failing:
        nodes = {str(i): ("Fail", {"a": i}) for i in range(count)}
    _, messages = told(doc(**nodes), *([str(count - 1)] if not failing else nodes))
    return sum(len(encode(each.data)) for each in messages), messages


@pytest.mark.parametrize("failing", [False, True])
def test_bytes_are_linear_in_nodes(failing):
    few, many = bytes_of(100, failing=failing)[0] / 100, bytes_of(400, failing=failing)[0] / 400
    assert many < 1.5 * few
    assert many < 5000  # a full state after each node would be 80,000


def test_of_many_nodes_every_one_is_told_running_and_all_in_the_end():
    _, messages = bytes_of(200)
    states = [each.data["nodes"] for each in messages if each.type == "progress_state"]
    running = {id for nodes in states for id, state in nodes.items() if state["state"] == "running"}
    assert len(running) == 200
    assert {state["state"] for state in states[-1].values()} == {"finished"}
    assert len(states[-1]) == 200
    for i, each in enumerate(messages):
        if each.type == "executing":
            assert messages[i - 1].data["nodes"][each.data["node"]]["state"] == "running"


def test_messages_are_json_whatever_a_node_shows():
    odd = {"nan": float("nan"), "inf": [float("-inf")], "half": "\ud800", 3: {"x": object}, "big": 10**40}
    found = json.loads(encode(odd))
    assert (found["nan"], found["inf"], found["big"], found["half"]) == (None, [None], 10**40, "\ud800")
