from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from editor_graphs import graph, node

from graph_engine import Registry, Workflow, WorkflowError, validate
from graph_engine.entry import Link

SAVED = graph([node(1, "Nope", [1], outputs=["*"]), node(2, "Reroute", inputs=[("", "*")], outputs=["*"])], (1, 0, 2, 0))


def png(texts: dict[str, str]) -> bytes:
    """A picture of nothing but texts."""
    chunks = [(b"tEXt", key.encode() + b"\0" + text.encode("latin-1")) for key, text in texts.items()] + [(b"IEND", b"")]
    parts = [struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def saved(registry: Registry) -> dict[str, Any]:
    """A graph of every declared type, nothing linked."""
    return graph([node(at + 1, type) for at, type in enumerate(registry.specs)])


def test_a_saved_graph_is_read_when_the_node_types_are_known(registry: Registry) -> None:
    found = Workflow.from_json(json.dumps(saved(registry)), registry.specs)
    assert [entry.class_type for entry in found.nodes.values()] == list(registry.specs)
    for entry in found.nodes.values():
        spec = registry.specs[entry.class_type]
        for name, value in entry.inputs.items():
            assert not isinstance(value, Link)
            field = spec.by_name[name]
            assert field.required or field.canonical(value) == field.canonical(field.default)


def test_without_node_types_it_is_refused(registry: Registry) -> None:
    with pytest.raises(WorkflowError) as caught:
        Workflow.from_json(saved(registry))
    assert caught.value.problems[0].code == "editor_format"


def test_an_unknown_node_type_is_the_usual_problem(registry: Registry) -> None:
    found = Workflow.from_json(SAVED, registry.specs)
    problems = validate(found, registry.specs)
    assert [(each.code, each.node, each.class_type) for each in problems if each.code == "unknown_node"] == [("unknown_node", "1", "Nope")]


def test_a_json_file_and_the_texts_of_a_picture(registry: Registry, tmp_path: Path) -> None:
    text, api = json.dumps(saved(registry)), json.dumps({"5": {"class_type": "Nope", "inputs": {}}})
    want = Workflow.from_json(text, registry.specs).nodes
    (tmp_path / "graph.json").write_text(text, encoding="utf-8")
    (tmp_path / "editor.png").write_bytes(png({"workflow": text}))
    (tmp_path / "both.png").write_bytes(png({"workflow": text, "prompt": api}))
    assert Workflow.load(tmp_path / "graph.json", registry.specs).nodes == want
    assert Workflow.load(tmp_path / "editor.png", registry.specs).nodes == want
    assert list(Workflow.load(tmp_path / "both.png", registry.specs).nodes) == ["5"]


def test_an_error_names_the_file_the_node_and_the_rule(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "graph.json").write_text(
        json.dumps(graph([node(3, "Reroute", inputs=[("", "*")]), {"id": 4, "type": 5}])), encoding="utf-8"
    )
    with pytest.raises(WorkflowError) as caught:
        Workflow.load(tmp_path / "graph.json", registry.specs)
    problem = caught.value.problems[0]
    assert problem.node == "4"
    assert "graph.json" in problem.message
    assert "a node has a type" in problem.message
