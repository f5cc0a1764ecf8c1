from __future__ import annotations

from typing import Any

import pytest

from graph_engine.errors import WorkflowError
from graph_engine.registry import Registry
from graph_engine.setting import apply_setting, read_setting, read_value
from graph_engine.workflow import Link, Workflow

GRAPH = {
    "1": {"class_type": "Blank", "inputs": {}},
    "2": {"class_type": "Blur", "inputs": {"picture": ["1", 0]}, "_meta": {"title": "a=b.c"}},
    "3": {"class_type": "Word", "inputs": {"text": ""}},
    "4": {"class_type": "Total", "inputs": {"values": {"__value__": [1]}}},
    "5": {"class_type": "Switch", "inputs": {"first": True, "one": 1, "other": 2}},
    "6": {"class_type": "Unheard", "inputs": {"n": 1}},
    "7": {"class_type": "Stencilled", "inputs": {"picture": ["1", 0]}},
    "8": {"class_type": "Look", "inputs": {}},
}


@pytest.mark.parametrize(
    ("setting", "id", "name", "value"),
    [
        ("1.width=128", "1", "width", 128),
        ("1.width=128.0", "1", "width", 128.0),
        ("Blank.shade=1", "1", "shade", 1),
        ("a=b.c.amount=0.25", "2", "amount", 0.25),
        ("2.mode=hard", "2", "mode", "hard"),
        ('2.picture=["7", "PICTURE"]', "2", "picture", Link("7", "PICTURE")),
        ("3.text=5", "3", "text", "5"),
        ("3.text=", "3", "text", ""),
        ("3.text=a cat = a dog", "3", "text", "a cat = a dog"),
        ('3.text=["1", 0]', "3", "text", '["1", 0]'),
        ("4.values=[1, 2]", "4", "values", [1, 2]),
        ("5.first=False", "5", "first", False),
        ("5.first=true", "5", "first", True),
        ("5.one=7", "5", "one", 7),
        ("6.n=2", "6", "n", 2),
        ("6.n=words", "6", "n", "words"),
        ("7.stencil=null", "7", "stencil", None),
        ("8.file=a.png", "8", "file", "a.png"),
        ("8.file=", "8", "file", None),
        ("1.width=wide", "1", "width", "wide"),
    ],
)
def test_a_setting_is_read_as_the_input_takes_it(registry: Registry, setting: str, id: str, name: str, value: Any) -> None:
    workflow = Workflow.from_json(GRAPH)
    changed = apply_setting(workflow, setting, registry.specs)
    found = changed.nodes[id].inputs[name]
    assert (found, type(found)) == (value, type(value))
    changed.nodes[id].inputs.pop(name)
    workflow.nodes[id].inputs.pop(name, None)
    assert changed == workflow


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("1.width", "is not `node.input=value`"),
        ("=5", "is not `node.input`"),
        ("width=5", "is not `node.input`"),
        ("9.width=5", "there is no node '9'"),
        ("1.widht=5", "did you mean 'width'"),
        ("Blnk.width=5", "did you mean 'Blank'"),
    ],
)
def test_a_wrong_setting_is_refused_in_words(registry: Registry, setting: str, said: str) -> None:
    with pytest.raises(WorkflowError, match=said.replace("?", r"\?")):
        read_setting(Workflow.from_json(GRAPH), setting, registry.specs)


def test_without_a_declaration_json_counts() -> None:
    assert [read_value(text, None) for text in ("5", "x", "[1]", '["1", 0]', "null", "[" * 9)] == [
        5,
        "x",
        [1],
        Link("1", 0),
        None,
        "[" * 9,
    ]
