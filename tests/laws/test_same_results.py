"""Law: what a run gives does not depend on the cache - on, off, tiny, warm, on disk, or after any history of other runs."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "graph_engine"))

import running_nodes
from documents import doc
from fakes import Blob, FakeDevice

from graph_engine.engine import Engine

SETTINGS = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


@st.composite
def graphs(draw):
    """A random workflow of numbers, lists, blobs, lazy choices and expansions, with links to earlier nodes only."""
    nodes = {"n0": ("Number", {"value": draw(st.integers(0, 3))})}
    numbers, lists, blobs = ["@n0"], [], []
    for i in range(1, draw(st.integers(2, 14))):
        id, number = f"n{i}", lambda: draw(st.sampled_from(numbers))
        kind = draw(
            st.sampled_from(
                [
                    "Add",
                    "Halve",
                    "DivMod",
                    "Count",
                    "Sum",
                    "Choose",
                    "Until",
                    "MakeBlob",
                    "Invert",
                    "Same",
                    "Read",
                    "Twice",
                    "Down",
                    "Gather",
                    "Random",
                    "Repeat",
                    "Map",
                ]
            )
        )
        if kind in ("Invert", "Same", "Read") and not blobs:
            kind = "MakeBlob"
        if kind in ("Sum", "Map") and not lists:
            kind = "Count"
        match kind:
            case "Add":
                nodes[id] = kind, {"a": number(), "b": number()}
            case "Halve" | "Twice" | "Random":
                nodes[id] = kind, {"a": number()}
            case "DivMod":
                nodes[id] = kind, {"a": number(), "b": draw(st.integers(1, 3))}
                numbers.append(f"@{id}.rest")
            case "Count" | "Gather":
                nodes[id] = kind, {"n": draw(st.integers(0, 3))}
            case "Repeat":
                nodes[id] = kind, {"a": number(), "n": draw(st.integers(0, 3))}
            case "Sum":
                nodes[id] = kind, {"values": draw(st.sampled_from(lists + numbers))}
            case "Map":
                nodes[id] = "Add", {"a": draw(st.sampled_from(lists)), "b": number()}
            case "Choose":
                nodes[id] = kind, {"first": draw(st.booleans()), "one": number(), "other": number()}
            case "Until":
                nodes[id] = kind, {"enough": number(), "a": number(), "b": number(), "c": number()}
            case "Down":
                nodes[id] = kind, {"n": draw(st.integers(0, 3)), "total": number()}
            case "MakeBlob":
                nodes[id] = kind, {"size": draw(st.sampled_from([10, 70_000])), "value": number()}
            case "Invert" | "Same":
                nodes[id] = kind, {"blob": draw(st.sampled_from(blobs))}
            case "Read":
                nodes[id] = kind, {"blob": draw(st.sampled_from(blobs)), "a": number()}
        where = lists if kind in ("Count", "Gather", "Repeat", "Map") else blobs if kind in ("MakeBlob", "Invert", "Same") else numbers
        where.append(f"@{id}")
    return nodes


def plain(value):
    if isinstance(value, Blob):
        return value.name, value.x.data
    return [plain(item) for item in value] if isinstance(value, list) else value


def outcome(engine, nodes, wanted=None):
    result = engine.run(doc(**nodes), wanted=wanted or list(nodes))
    assert result.status == "success", result.failures
    return {id: {name: plain(value) for name, value in result.values(id).items()} for id in wanted or nodes}


def engine(**options):
    return Engine(running_nodes.registry(), device=FakeDevice(), debug=True, **options)


@SETTINGS
@given(graphs(), st.sampled_from([0, 1, 100, 80_000]))
def test_on_off_tiny_and_warm(nodes, tiny):
    with engine(cache_bytes=0) as off, engine() as on, engine(cache_bytes=tiny) as small:
        expected = outcome(off, nodes)
        assert outcome(on, nodes) == expected
        assert outcome(on, nodes) == expected
        assert outcome(small, nodes) == expected
        assert outcome(small, nodes) == expected
        assert outcome(off, nodes) == expected
        last = list(nodes)[-1]
        assert outcome(small, nodes, [last])[last] == expected[last]


@SETTINGS
@given(st.lists(graphs(), min_size=2, max_size=4), st.sampled_from([None, 100, 80_000]))
def test_after_any_history(history, limit):
    with engine(cache_bytes=limit) as one:
        for nodes in history:
            one.run(doc(**nodes), wanted=list(nodes))
        for nodes in history:
            with engine(cache_bytes=0) as fresh:
                assert outcome(one, nodes) == outcome(fresh, nodes)


@SETTINGS
@given(graphs(), st.sampled_from([0, 300, 1 << 30]), st.sampled_from([0, 100, None]))
def test_on_disk_and_after_a_restart(nodes, disk, memory):
    with tempfile.TemporaryDirectory() as folder:
        with engine(cache_dir=folder, disk_bytes=disk, cache_bytes=memory) as first:
            expected = outcome(first, nodes)
        with engine(cache_dir=folder, disk_bytes=disk, cache_bytes=memory) as second:
            assert outcome(second, nodes) == expected
        with engine(cache_bytes=0) as fresh:
            assert outcome(fresh, nodes) == expected


@SETTINGS
@given(graphs())
def test_an_unchanged_workflow_runs_nothing_again_but_what_is_never_cached(nodes):
    with engine() as one:
        one.run(doc(**nodes), wanted=list(nodes))
        again = one.run(doc(**nodes), wanted=list(nodes))
        assert all(nodes[id][0] == "Random" for id in again.executed)


@SETTINGS
@given(graphs())
def test_new_names_change_nothing(nodes):
    renamed = {}
    for id, (kind, inputs) in reversed(nodes.items()):
        renamed[f"x{id}"] = kind, {name: f"@x{value[1:]}" if isinstance(value, str) else value for name, value in inputs.items()}
    with engine() as one:
        one.run(doc(**nodes), wanted=list(nodes))
        again = one.run(doc(**renamed), wanted=list(renamed))
        assert all(renamed[id][0] == "Random" for id in again.executed)


@pytest.mark.parametrize("limit", [None, 0, 50])
def test_no_pin_outlives_its_run(limit):
    with engine(cache_bytes=limit) as one:
        one.run(
            doc(
                a=("MakeBlob", {"size": 100}),
                b=("Invert", {"blob": "@a"}),
                f=("Fail", {}),
                s=("Show", {"what": "@f"}),
                t=("Read", {"blob": "@b"}),
            ),
            wanted=["s", "t"],
        )
        assert not one.cache._pins
