"""Group nodes of old graphs: folding nodes into a group says the same as leaving them where they are."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graph_engine import WorkflowError
from graph_engine.editor.convert import node_types, to_api
from graph_engine.editor.group_nodes import groups, without_groups

CHOICES = {"required": {"samples": ("LATENT",), "method": (["area", "nearest"],)}}
DEFINITIONS: dict[str, Any] = {
    "Empty": {"input": {"required": {"width": ("INT", {"default": 64}), "height": ("INT", {"default": 64})}}, "output": ["LATENT"]},
    "Text": {"input": {"required": {"text": ("STRING", {"multiline": True}), "clip": ("CLIP",)}}, "output": ["CONDITIONING"]},
    "Load": {"input": {"required": {"name": (["a", "b"],)}}, "output": ["MODEL", "CLIP"]},
    "Picture": {"input": {"required": {"image": (["x.png"], {"image_upload": True})}}, "output": ["IMAGE", "MASK"]},
    "Sample": {
        "input": {
            "required": {
                "model": ("MODEL",),
                "seed": ("INT", {"control_after_generate": True}),
                "steps": ("INT", {"default": 20}),
                "positive": ("CONDITIONING",),
                "latent": ("LATENT",),
                "denoise": ("FLOAT", {"default": 1.0}),
            }
        },
        "output": ["LATENT"],
    },
    "Scale": {"input": CHOICES, "output": ["LATENT"]},
    "Save": {"input": {"required": {"samples": ("LATENT",)}}, "output": []},
}


def node(id: Any, type: str, values: Any = (), inputs: Any = (), outputs: Any = (), **more: Any) -> dict[str, Any]:
    """`inputs` are (name, link) or (name, link, True) for a widget that was turned into an input."""
    sockets = [{"name": name, "type": "*", "link": link, **({"widget": {"name": name}} if more else {})} for name, link, *more in inputs]
    made = {"type": type, "mode": 0, "inputs": sockets, "outputs": [{"name": each, "type": each} for each in outputs], **more}
    return {**made, "widgets_values": list(values), **({} if id is None else {"id": id})}


def ids_alike(found: dict[str, Any]) -> dict[tuple[str, Any], Any]:
    """The document by type and first literal, whatever the ids are."""

    def label(id: str) -> tuple[str, Any]:
        entry = found[id]
        return entry["class_type"], next((each for each in entry["inputs"].values() if not isinstance(each, list)), None)

    def end(value: Any) -> Any:
        return (*label(value[0]), value[1]) if isinstance(value, list) else value

    return {label(id): {name: end(value) for name, value in entry["inputs"].items()} for id, entry in found.items()}


INNER = [
    node(None, "Load", ["a"], outputs=["MODEL", "CLIP"]),
    node(None, "Text", ["inside"], [("clip", None)], ["CONDITIONING"]),
    node(None, "Sample", [7, "fixed", 12, 0.5], [("model", None), ("positive", None), ("latent", None)], ["LATENT"]),
]
GROUP = {
    "nodes": INNER,
    "links": [[0, 1, 1, 0, 1, "CLIP"], [0, 0, 2, 0, 2, "MODEL"], [1, 0, 2, 1, 3, "CONDITIONING"], [None, None, 2, 2, 9, "LATENT"]],
    "external": [[0, 1, "CLIP"], [2, 0, "LATENT"]],
}
FLAT = {
    "nodes": [
        node(1, "Empty", [64, 72], outputs=["LATENT"]),
        node(2, "Load", ["b"], outputs=["MODEL", "CLIP"]),
        node(3, "Text", ["outside"], [("clip", 11)], ["CONDITIONING"]),
        node(4, "Sample", [9, "randomize", 30, 0.25], [("model", 12), ("positive", 13), ("latent", 14)], ["LATENT"]),
        node(5, "Save", (), [("samples", 15)]),
        node(6, "Text", ["beside"], [("clip", 16)], ["CONDITIONING"]),
    ],
    "links": [
        [11, 2, 1, 3, 0, "CLIP"], [12, 2, 0, 4, 0, "MODEL"], [13, 3, 0, 4, 1, "CONDITIONING"], [14, 1, 0, 4, 2, "LATENT"],
        [15, 4, 0, 5, 0, "LATENT"], [16, 2, 1, 6, 0, "CLIP"],
    ],
}  # fmt: skip


def grouped(type: str, **more: Any) -> dict[str, Any]:
    """FLAT with nodes 2 to 4 folded into one."""
    values = ["b", "outside", 9, "randomize", 30, 0.25]
    instance = node(2, type, values, [("latent", 14)], ["CLIP", "LATENT"], **more)
    return {
        "nodes": [FLAT["nodes"][0], instance, *FLAT["nodes"][4:]],
        "links": [[14, 1, 0, 2, 0, "LATENT"], [15, 2, 1, 5, 0, "LATENT"], [16, 2, 0, 6, 0, "CLIP"]],
        "extra": {"groupNodes": {"All in One": GROUP}},
    }


@pytest.mark.parametrize("type", ["workflow>All in One", "workflow/All in One"])
def test_a_group_says_what_its_nodes_say(type: str) -> None:
    found = to_api(grouped(type), DEFINITIONS)
    assert ids_alike(found) == ids_alike(to_api(FLAT, DEFINITIONS))
    assert {id.split(":")[0] for id in found} == {"1", "2", "5", "6"}
    assert node_types(grouped(type)) == {"Empty", type, "Save", "Text", "Load", "Sample"}


def test_a_group_that_stands_twice_has_the_values_of_each() -> None:
    saved = grouped("workflow>All in One")
    saved["nodes"].append(node(20, "workflow>All in One", ["a", "again", 1, "fixed", 2, 1.0], [("latent", None)], ["CLIP", "LATENT"]))
    found = ids_alike(to_api(saved, DEFINITIONS))
    assert found["Text", "again"]["clip"] == ("Load", "a", 1)
    assert found["Text", "outside"]["clip"] == ("Load", "b", 1)
    assert found["Sample", 1] == {"seed": 1, "steps": 2, "denoise": 1.0, "model": ("Load", "a", 0), "positive": ("Text", "again", 0)}


def test_a_muted_group_is_left_out_and_a_bypassed_one_hands_its_latent_on() -> None:
    muted = to_api(grouped("workflow>All in One", mode=2), DEFINITIONS)
    assert {entry["class_type"] for entry in muted.values()} == {"Empty", "Save", "Text"}
    bypassed = to_api(grouped("workflow>All in One", mode=4), DEFINITIONS)
    assert bypassed["5"]["inputs"]["samples"] == ["1", 0]


def sample(seed: int, control: str, steps: int, denoise: float) -> dict[str, Any]:
    """One whose steps were turned into an input."""
    sockets = [("model", None), ("positive", None), ("latent", None), ("steps", None, True)]
    return node(None, "Sample", [seed, control, steps, denoise], sockets, ["LATENT"])


def test_widgets_turned_into_inputs_come_after_all_sockets_and_keep_their_place_in_the_list() -> None:
    inner = [
        node(
            None,
            "Sample",
            [7, "fixed", 12, 0.5],
            [("model", None), ("positive", None), ("latent", None), ("steps", None, True)],
            ["LATENT"],
        ),
        node(None, "Scale", ["area"], [("samples", None)], ["LATENT"], title="Larger"),
        node(
            None,
            "Sample",
            [8, "fixed", 13, 0.75],
            [("model", None), ("positive", None), ("latent", None), ("steps", None, True)],
            ["LATENT"],
        ),
    ]
    group = {"nodes": inner, "links": [[0, 0, 1, 0, 1, "LATENT"], [1, 0, 2, 2, 2, "LATENT"]], "external": []}
    values = [1, "fixed", 0.1, "nearest", 2, "fixed", 0.2, 31, 32]  # the steps of both last
    sockets = [("model", 1), ("positive", None), ("latent", 2), ("Sample model", 3), ("Sample positive", None)]
    instance = node(9, "workflow>Two", values, [*sockets, ("steps", None, True), ("Sample steps", 4, True)], ["LATENT"])
    nodes = [
        instance,
        node(1, "Load", ["a"], outputs=["MODEL", "CLIP"]),
        node(2, "Empty", [8, 16], outputs=["LATENT"]),
        node(4, "Load", ["b"], outputs=["MODEL", "CLIP"]),
        node(5, "Save", (), [("samples", 5)]),
        node(7, "Empty", [1, 2], outputs=["LATENT"]),
    ]
    ends = [(1, 1, 9, 0), (2, 2, 9, 2), (3, 4, 9, 3), (4, 7, 9, 6), (5, 9, 5, 0)]
    links = [[id, source, 0, target, slot, "*"] for id, source, target, slot in ends]
    saved = {"nodes": nodes, "links": links, "extra": {"groupNodes": {"Two": group}}}
    found = ids_alike(to_api(saved, DEFINITIONS))
    assert found["Sample", 1] == {"seed": 1, "steps": 31, "denoise": 0.1, "model": ("Load", "a", 0), "latent": ("Empty", 8, 0)}
    assert found["Scale", "nearest"]["samples"] == ("Sample", 1, 0)
    assert found["Sample", 2]["model"] == ("Load", "b", 0)
    assert found["Sample", 2]["steps"] == ("Empty", 1, 0)  # linked from outside, by the name that the group gives it
    assert found["Save", None]["samples"] == ("Sample", 2, 0)


def test_primitives_reroutes_uploads_and_settings_within_a_group() -> None:
    inner = [
        node(None, "PrimitiveNode", [5, "fixed"], outputs=["INT"], title="count"),
        node(None, "Reroute", (), [("", None)], ["LATENT"]),
        node(
            None,
            "Sample",
            [7, "fixed", 12, 0.5],
            [("model", None), ("positive", None), ("latent", None), ("steps", None, True)],
            ["LATENT"],
        ),
        node(None, "Picture", ["x.png", "image"], outputs=["IMAGE", "MASK"]),
        node(None, "Note", ["a note"]),
    ]
    group = {
        "nodes": inner,
        "links": [[0, 0, 2, 3, 1, "INT"], [1, 0, 2, 2, 2, "LATENT"]],
        "external": [],
        "config": {"2": {"input": {"model": {"visible": False}}}, "3": {"output": {"0": {"visible": False}}}},
    }
    instance = node(
        9, "workflow>G", [33, "fixed", 2, "fixed", 0.5, "y.png", "image"], [("LATENT", 1), ("positive", None)], ["LATENT", "MASK"]
    )
    saved = {
        "nodes": [instance, node(2, "Empty", [8, 16], outputs=["LATENT"]), node(5, "Save", (), [("samples", 2)])],
        "links": [[1, 2, 0, 9, 0, "LATENT"], [2, 9, 0, 5, 0, "LATENT"]],
        "extra": {"groupNodes": {"G": group}},
    }
    found = ids_alike(to_api(saved, DEFINITIONS))
    assert found["Sample", 2] == {"seed": 2, "steps": 33, "denoise": 0.5, "latent": ("Empty", 8, 0)}
    assert found["Picture", "y.png"] == {"image": "y.png"}
    assert found["Save", None]["samples"] == ("Sample", 2, 0)


def test_a_group_that_the_graph_does_not_hold_is_a_node_of_an_unknown_type() -> None:
    saved = {**grouped("workflow>Another"), "extra": {}}
    assert without_groups(saved, DEFINITIONS) is saved
    assert "class_type" not in to_api(grouped("workflow>Another"), DEFINITIONS)["2"]


def test_links_that_fit_nothing_within_are_refused() -> None:
    saved = grouped("workflow>All in One")
    saved["nodes"][1]["inputs"].append({"name": "more", "type": "MODEL", "link": 14})
    with pytest.raises(WorkflowError, match=r"node 2: nothing within workflow>All in One has the input more \(a link ends at an input"):
        to_api(saved, DEFINITIONS)
    broken = {**grouped("workflow>All in One"), "extra": {"groupNodes": {"All in One": {**GROUP, "links": [[0, 1, 7, 0]]}}}}
    with pytest.raises(WorkflowError, match=r"the group 'All in One' has the link \[0, 1, 7, 0\]"):
        to_api(broken, DEFINITIONS)


SHAPELESS = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 5) | st.floats() | st.sampled_from(["Sample", "Text", "name", "widget", "0"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["nodes", "links", "external", "config", "type", "inputs", "outputs", "name", "widget"]), inner)
    ),
    max_leaves=12,
)


@given(SHAPELESS, SHAPELESS)
def test_any_group_gives_a_document_or_a_clear_error(group: Any, inputs: Any) -> None:
    saved = {"nodes": [{"id": 1, "type": "workflow>G", "inputs": inputs, "widgets_values": inputs}], "extra": {"groupNodes": {"G": group}}}
    assert set(groups(saved)) <= {"G"}
    with contextlib.suppress(WorkflowError):
        to_api(saved, DEFINITIONS)
