from __future__ import annotations

import copy
import json
import random
from datetime import datetime
from typing import Any

import pytest
from editor_graphs import DEFINITIONS, RECORDED, SUBGRAPH, filter_, graph, node, save, source, subgraph
from hypothesis import given, settings
from hypothesis import strategies as st

from graph_engine import WorkflowError
from graph_engine.editor.convert import is_editor_graph, node_types, to_api


@pytest.mark.parametrize("name", RECORDED["graphs"])
def test_it_submits_what_the_editor_submits(name: str) -> None:
    # recorded from the editor's own front end, version 1.58.1, in a browser
    assert to_api(RECORDED["graphs"][name], DEFINITIONS) == RECORDED["prompts"][name]


def as_version_1(graph: dict[str, Any]) -> dict[str, Any]:
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    links = [dict(zip(names, link, strict=True)) if isinstance(link, list) else link for link in graph.get("links", [])]
    return {**graph, "version": 1, "links": links, "state": {"lastNodeId": graph.get("last_node_id", 0)}, "reroutes": []}


@pytest.mark.parametrize("name", RECORDED["graphs"])
def test_both_formats_say_the_same(name: str) -> None:
    saved = RECORDED["graphs"][name]
    assert to_api(as_version_1(saved), DEFINITIONS) == to_api(saved, DEFINITIONS)


@pytest.mark.parametrize("name", list(RECORDED["graphs"])[::5])
def test_reading_leaves_the_graph_and_the_definitions_alone(name: str) -> None:
    saved, known = copy.deepcopy(RECORDED["graphs"][name]), copy.deepcopy(DEFINITIONS)
    to_api(saved, known)
    assert saved == RECORDED["graphs"][name]
    assert known == DEFINITIONS


def test_whole_number_ids_come_first_in_their_order() -> None:
    nodes = [node(id, "LabText", ["x"]) for id in ("b", 10, 2, "a")]
    assert list(to_api(graph(nodes), DEFINITIONS)) == ["2", "10", "b", "a"]


def test_groups_notes_and_floating_links_change_nothing() -> None:
    plain = graph([source(), save()], (1, 0, 3, 0))
    dressed = graph([source(), save(), node(8, "Note", ["memo"]), node(9, "MarkdownNote", ["memo"])], (1, 0, 3, 0))
    dressed |= {"groups": [{"title": "G", "bounding": [0, 0, 9, 9]}], "floatingLinks": [[7, 1, 0, -1, -1, "IMAGE"]]}
    assert to_api(dressed, DEFINITIONS) == to_api(plain, DEFINITIONS)


def test_a_subgraph_that_hands_its_input_through_is_followed() -> None:
    inner = subgraph([], (-10, 0, -20, 0), inputs=[("image", "IMAGE")], outputs=[("IMAGE", "IMAGE")])
    outer = [source(), node(2, SUBGRAPH, inputs=[("image", "IMAGE")], outputs=["IMAGE"]), save()]
    found = to_api(graph(outer, (1, 0, 2, 0), (2, 0, 3, 0), definitions={"subgraphs": [inner]}), DEFINITIONS)
    assert found["3"]["inputs"]["images"] == ["1", 0]


def test_a_subgraph_that_is_not_defined_is_a_node_of_an_unknown_type() -> None:
    found = to_api(graph([source(), node(2, SUBGRAPH, inputs=[("image", "IMAGE")])], (1, 0, 2, 0)), DEFINITIONS)
    assert found["2"] == {"inputs": {"image": ["1", 0]}, "_meta": {"title": ""}}


def test_an_unknown_type_is_named_on_request() -> None:
    saved = graph([node(2, "NoSuchNode", ["q"])])
    assert "class_type" not in to_api(saved, DEFINITIONS)["2"]
    assert to_api(saved, DEFINITIONS, exact=False)["2"]["class_type"] == "NoSuchNode"


def test_white_space_round_a_node_type_is_not_a_part_of_it() -> None:
    """Old graphs hold `ConditioningAverage `."""
    saved = graph([source(), {**save(), "type": "LabSave "}], (1, 0, 3, 0))
    assert to_api(saved, DEFINITIONS) == to_api(graph([source(), save()], (1, 0, 3, 0)), DEFINITIONS)
    assert node_types(saved) == {"LabSource", "LabSave"}


def test_node_types_are_those_of_subgraphs_too() -> None:
    saved = graph([save()], definitions={"subgraphs": [subgraph([filter_(10)])]})
    assert node_types(saved) == {"LabSave", "LabFilter"}
    assert node_types({"nodes": [3, {"type": 4}], "definitions": {"subgraphs": 5}}) == set()


@pytest.mark.parametrize("value", [None, [], {}, {"nodes": {}}, {"1": {"class_type": "A", "inputs": {}}}, "nodes"])
def test_other_json_is_no_editor_graph(value: object) -> None:
    assert not is_editor_graph(value)


def test_dates_and_widgets_in_names_of_files() -> None:
    nodes = [
        node(1, "SaveImage", ["%date:yyyy-MM-dd hh:mm:ss%/%date:d.M.yy%"]),
        node(2, "SaveImage", ["%LabSource.mode% %My title.seed% %LabSource.none% %Nope.seed% %width% 100%"]),
        source(3),
        source(4, title="My title"),
        node(5, "LabSave", ["%date:yyyy%"]),
    ]
    found = to_api(graph(nodes), DEFINITIONS, now=datetime(2026, 3, 4, 15, 6, 7))
    assert found["1"]["inputs"]["filename_prefix"] == "2026-03-04 15:06:07/4.3.26"
    assert found["2"]["inputs"]["filename_prefix"] == "c 7 %LabSource.none% %Nope.seed% %width% 100%"
    assert found["5"]["inputs"]["filename_prefix"] == "%date:yyyy%"


def test_one_wording_is_chosen() -> None:
    saved = graph([node(1, "Dyn", ["a {red|green|{light|dark} blue} hat"])])
    found = {to_api(saved, DEFINITIONS, choose=random.Random(seed))["1"]["inputs"]["t"] for seed in range(60)}
    assert found == {"a red hat", "a green hat", "a light blue hat", "a dark blue hat"}


# what cannot be converted


@pytest.mark.parametrize(
    ("saved", "said", "where"),
    [
        (3, "an object", None),
        ({"nodes": 3}, "lists", None),
        ({"nodes": [3]}, "a node is an object", None),
        (graph([{"type": "LabText"}]), "a node has an id", None),
        (graph([{"id": 1, "type": None}]), "a node has a type", "1"),
        (graph([node(1, "LabText", inputs=[])], links=[None]), "links[0]", None),
        (graph([{**save(), "inputs": [5]}]), "lists of objects", "3"),
        (graph([], definitions={"subgraphs": [{"id": 5}]}), "a subgraph is an object", None),
        (graph([save()], (77, 0, 3, 0)), "node 77", "3"),
    ],
)
def test_a_malformed_graph_is_refused_with_the_node_and_the_rule(saved: Any, said: str, where: str | None) -> None:
    with pytest.raises(WorkflowError) as caught:
        to_api(saved, DEFINITIONS)
    problem = caught.value.problems[0]
    assert said in problem.message
    assert problem.node == where
    assert problem.code == "editor_graph"


@pytest.mark.parametrize("type", ["Reroute", "LabFilter"])
def test_links_that_go_round_in_a_circle_are_refused(type: str) -> None:
    kind: dict[str, Any] = {"inputs": [("image", "IMAGE")], "outputs": ["IMAGE"], "mode": 4}
    nodes = [node(5, type, **kind), node(6, type, **kind), save()]
    with pytest.raises(WorkflowError, match="circle"):
        to_api(graph(nodes, (5, 0, 6, 0), (6, 0, 5, 0), (6, 0, 3, 0)), DEFINITIONS)


def test_a_circle_of_nodes_that_run_is_left_to_validation() -> None:
    found = to_api(graph([filter_(1), filter_(2)], (1, 0, 2, 0), (2, 0, 1, 0)), DEFINITIONS)
    assert [found[id]["inputs"]["image"] for id in "12"] == [["2", 0], ["1", 0]]


@pytest.mark.parametrize("length", [1, 2, 30])
def test_a_subgraph_that_contains_itself_is_refused(length: int) -> None:
    inner = [subgraph([node(n, f"{(n + 1) % length}")], id=f"{n}") for n in range(length)]
    with pytest.raises(WorkflowError, match="contains itself"):
        to_api(graph([node(100, "0")], definitions={"subgraphs": inner}), DEFINITIONS)


def test_subgraphs_that_multiply_without_end_are_refused() -> None:
    inner = [subgraph([node(2 * n, f"{n + 1}"), node(2 * n + 1, f"{n + 1}")], id=f"{n}") for n in range(40)]
    with pytest.raises(WorkflowError, match="multiply"):
        to_api(graph([node(100, "0")], definitions={"subgraphs": inner}), DEFINITIONS)


def test_deep_nesting_of_json_is_refused() -> None:
    deep: Any = []
    for _level in range(5000):
        deep = [deep]
    with pytest.raises(WorkflowError, match="nested"):
        to_api(graph([node(1, "LabText", [deep])]), DEFINITIONS)


def test_subgraphs_in_subgraphs_and_long_chains_need_no_stack() -> None:
    depth = 600
    inner = [
        subgraph(
            [node(n, f"{n + 1}", inputs=[("i", "*")], outputs=["*"])],
            (-10, 0, n, 0),
            (n, 0, -20, 0),
            inputs=[("i", "*")],
            outputs=[("o", "*")],
            id=f"{n}",
        )
        for n in range(depth)
    ]
    inner.append(subgraph([], (-10, 0, -20, 0), inputs=[("i", "*")], outputs=[("o", "*")], id=f"{depth}"))
    reroutes = [node(10_000 + n, "Reroute", inputs=[("", "*")], outputs=["*"]) for n in range(3000)]
    chain = [("s", 0, 10_000, 0), *((10_000 + n, 0, 10_001 + n, 0) for n in range(2999)), (12_999, 0, "i", 0), ("i", 0, "e", 0)]
    nodes = [source("s"), *reroutes, node("i", "0", inputs=[("i", "*")], outputs=["*"]), save("e")]
    found = to_api(graph(nodes, *chain, definitions={"subgraphs": inner}), DEFINITIONS)
    assert found["e"]["inputs"]["images"] == ["s", 0]


# laws

IDS = st.sampled_from([0, 1, 2, 3, "1", "x", -1, -10, -20, None, 1.5, True])
TYPES = st.sampled_from([*DEFINITIONS, "Reroute", "PrimitiveNode", "Note", "NoSuchNode", SUBGRAPH, "", None, 3])
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
JSON = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3), max_leaves=6
)
NAMES = st.sampled_from(["image", "images", "amount", "seed", "value", "filename_prefix", "kind", "imgs.img1", "", None, 4])
SOCKET = st.fixed_dictionaries({"name": NAMES, "type": st.sampled_from(["IMAGE", "*", "INT", "", None, 0, ["a"]]), "link": IDS}) | JSON
PROXIES = st.lists(st.lists(st.sampled_from(["1", "2", "x", "-1", "image", "amount", "seed"]), max_size=3), max_size=3) | JSON
NODE = st.fixed_dictionaries(
    {"id": IDS, "type": TYPES},
    optional={
        "mode": st.sampled_from([0, 1, 2, 4, None, "4", 7]),
        "inputs": st.lists(SOCKET, max_size=3) | JSON,
        "outputs": st.lists(SOCKET, max_size=3) | JSON,
        "widgets_values": st.lists(JSON, max_size=6) | JSON,
        "title": JSON,
        "properties": st.fixed_dictionaries({"proxyWidgets": PROXIES}) | JSON,
    },
)
SLOT = st.sampled_from([0, 1, 2, 9, -1, "0", None, 1.0])
LINK = st.tuples(IDS, IDS, SLOT, IDS, SLOT).map(list)
OBJECT = LINK.map(lambda row: dict(zip(("id", "origin_id", "origin_slot", "target_id", "target_slot"), row, strict=True)))
END = st.fixed_dictionaries({"name": NAMES, "type": st.just("*")}, optional={"linkIds": st.lists(IDS, max_size=2) | JSON})
BODY = {"nodes": st.lists(NODE | JSON, max_size=4) | JSON, "links": st.lists(LINK | OBJECT | JSON, max_size=5) | JSON}
INNER = st.fixed_dictionaries(
    {**BODY, "id": st.sampled_from([SUBGRAPH, "other", 3])},
    optional={"inputs": st.lists(END, max_size=2), "outputs": st.lists(END, max_size=2)},
)
ROOT = st.fixed_dictionaries(
    {**BODY, "definitions": st.fixed_dictionaries({"subgraphs": st.lists(INNER | JSON, max_size=2)}) | JSON, "last_node_id": JSON}
)


SOUND_ID = st.sampled_from([1, 2, 3, 4, "x"])
SOUND_SOCKET = st.fixed_dictionaries(
    {"name": NAMES.filter(bool), "type": st.sampled_from(["IMAGE", "*", "INT"]), "link": st.integers(0, 8)}
)
SOUND_NODE = st.fixed_dictionaries(
    {"id": SOUND_ID, "type": TYPES.filter(lambda type: isinstance(type, str)), "mode": st.sampled_from([0, 0, 0, 2, 4])},
    optional={
        "inputs": st.lists(SOUND_SOCKET, max_size=3),
        "outputs": st.lists(SOUND_SOCKET, max_size=2),
        "widgets_values": st.lists(JSON, max_size=6),
        "properties": st.fixed_dictionaries({"proxyWidgets": PROXIES}),
    },
)
SOUND_LINK = st.tuples(st.integers(0, 8), SOUND_ID | st.just(-10), SLOT, SOUND_ID | st.just(-20), SLOT).map(list)
SOUND_END = st.fixed_dictionaries({"name": st.text(max_size=3), "type": st.just("*"), "linkIds": st.lists(st.integers(0, 8), max_size=3)})
SOUND_BODY = {"nodes": st.lists(SOUND_NODE, min_size=1, max_size=5), "links": st.lists(SOUND_LINK, max_size=8)}
SOUND_INNER = st.fixed_dictionaries(
    {**SOUND_BODY, "id": st.just(SUBGRAPH), "inputs": st.lists(SOUND_END, max_size=3), "outputs": st.lists(SOUND_END, max_size=2)}
)
SOUND_ROOT = st.fixed_dictionaries({**SOUND_BODY, "definitions": st.fixed_dictionaries({"subgraphs": st.lists(SOUND_INNER, max_size=1)})})


@settings(max_examples=120, deadline=None)
@given(ROOT | JSON)
def test_any_json_gives_a_document_or_a_clear_error(saved: Any) -> None:
    check(saved)


@settings(max_examples=150, deadline=None)
@given(SOUND_ROOT)
def test_any_graph_gives_a_document_or_a_clear_error(saved: Any) -> None:
    check(saved)


def check(saved: Any) -> None:
    said: list[str] = []
    try:
        found = to_api(saved, DEFINITIONS)
    except WorkflowError as error:
        said = [problem.message for problem in error.problems]
        found = {}
    assert all(said)
    json.dumps(found)
    for entry in found.values():
        for value in entry["inputs"].values():
            assert not isinstance(value, list) or value[0] in found  # every link leads to a node of the document


WELL_NODE = st.sampled_from([source, filter_, save])
WELL_GRAPH = st.lists(st.tuples(WELL_NODE, st.sampled_from([0, 0, 0, 2, 4])), min_size=1, max_size=8).flatmap(
    lambda made: st.tuples(st.just(made), st.lists(st.tuples(st.integers(0, len(made) - 1), st.integers(0, len(made) - 1)), max_size=12))
)


@settings(max_examples=60, deadline=None)
@given(WELL_GRAPH, st.data())
def test_the_order_of_nodes_and_a_reroute_in_a_link_change_nothing(made: Any, data: st.DataObject) -> None:
    kinds, ends = made
    nodes = [kind(at, mode=mode) for at, (kind, mode) in enumerate(kinds)]
    links = [
        (min(ends), 0, max(ends), 0) for ends in ends if ends[0] != ends[1] and nodes[min(ends)]["outputs"] and nodes[max(ends)]["inputs"]
    ]
    links = list({link[2]: link for link in links}.values())  # an input takes one link
    want = to_api(graph(nodes, *links), DEFINITIONS)
    assert to_api(graph(data.draw(st.permutations(nodes)), *links), DEFINITIONS) == want
    if links:
        at = data.draw(st.integers(0, len(links) - 1))
        start, end = links[at][:2], links[at][2:]
        rerouted = [*links[:at], (*start, "r", 0), ("r", 0, *end), *links[at + 1 :]]
        assert to_api(graph([*nodes, node("r", "Reroute", inputs=[("", "*")], outputs=["*"])], *rerouted), DEFINITIONS) == want
