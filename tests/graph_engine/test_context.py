"""`ctx` by hand: nodes can be called without an engine, and say clearly what they miss."""

from __future__ import annotations

import pytest
from fakes import Blob, FakeDevice, Tensor
from running_nodes import Add, Around, Number, Show, Twice, Write

from graph_engine.context import Context
from graph_engine.entry import Constant, Link, NodeEntry
from graph_engine.errors import NodeError
from graph_engine.expansion import Expansion
from graph_engine.files import Folders
from graph_engine.workflow import Workflow


def test_any_node_can_be_called_by_hand(tmp_path):
    ctx = Context.silent(folders=Folders(tmp_path))
    assert Add(a=2, b=3).run(ctx) == 5
    Show(what=5).run(ctx)
    assert ctx.ui == {"text": ["5"]}
    Write(what=7).run(ctx)
    assert [artifact.filename for artifact in ctx.artifacts] == ["number_00001_.txt"]
    assert (tmp_path / "output" / "number_00001_.txt").read_text() == "7"
    ctx.step(1, 2, lambda: pytest.fail("nobody looks"))
    ctx.check()


def test_the_device_is_opened_when_first_asked_for(monkeypatch):
    opened = []
    monkeypatch.setattr("graph_engine.context.open_device", lambda: opened.append(1) or FakeDevice())
    ctx = Context.silent()
    Number(value=1).run(ctx)
    assert not opened
    assert ctx.device is ctx.device
    assert opened == [1]


def test_random_generators_come_from_the_device():
    ctx = Context.silent(FakeDevice())
    assert ctx.rng(5).random() == ctx.rng(5).random()
    assert ctx.rng(5, 1).random() == ctx.rng(6).random()
    ctx.rng(2**64 - 1, 5)


def test_what_a_silent_context_lacks_it_says():
    ctx = Context.silent()
    with pytest.raises(NodeError, match=r"give it some: Context\.silent"):
        Write(what=1).run(ctx)
    with pytest.raises(NodeError, match="a silent context has none"):
        Around().run(ctx)


def test_saved_files_are_told_by_place(tmp_path):
    ctx = Context.silent(folders=Folders(tmp_path))
    artifact = ctx.save("a/b/c", ".bin", lambda file: file.write(b"1") and None, kind="temp", media="x/y")
    assert artifact.model_dump() == {
        "path": str(tmp_path / "temp" / "a" / "b" / "c_00001_.bin"),
        "filename": "c_00001_.bin",
        "subfolder": "a/b",
        "type": "temp",
        "media": "x/y",
    }


def test_ui_adds_up():
    ctx = Context.silent()
    ctx.show(text="a", count=1)
    ctx.show(text=["b", "c"])
    assert ctx.ui == {"text": ["a", "b", "c"], "count": [1]}


def test_constants_are_known_by_content():
    ctx = Context.silent(FakeDevice())
    blobs = [ctx.constant(Blob(Tensor(data))) for data in (b"a" * 100_000, b"a" * 100_000, b"b" * 100_000)]
    assert blobs[0].key == blobs[1].key != blobs[2].key
    assert ctx.constant(object()).key != ctx.constant(object()).key
    given = Constant(3, "mine")
    assert ctx.constant(given) is given


def test_scalars_as_constants_need_no_device(monkeypatch):
    monkeypatch.setattr("graph_engine.context.open_device", lambda: pytest.fail("not needed"))
    ctx = Context.silent()
    assert ctx.constant(3).key == ctx.constant(3).key != ctx.constant(3.0).key


def test_expansions_are_read_from_workflows_graphs_and_entries():
    ctx = Context.silent()
    made = Twice(a=1).run(ctx)
    assert isinstance(made, Expansion)
    assert made.outputs == (Link("second"),)
    document = {"1": {"class_type": "Number", "inputs": {}}}
    assert ctx.expand(Workflow.from_json(document), [Link("1"), 5]).outputs == (Link("1"), ctx.constant(5))
    assert ctx.expand({"1": NodeEntry("Number")}, [[Link("1"), 2]]).outputs == ([Link("1"), ctx.constant(2)],)
    with pytest.raises(NodeError, match="expand takes"):
        ctx.expand([1], [])
