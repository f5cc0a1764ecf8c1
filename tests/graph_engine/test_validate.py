from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simple_nodes import ALL

from graph_engine.files import Folders
from graph_engine.registry import Registry
from graph_engine.spec import Problem
from graph_engine.validate import canonical, needs_classes, notes, validate, wanted_nodes
from graph_engine.workflow import Constant, Link, NodeEntry, Workflow

REGISTRY = Registry.of(*ALL)
SPECS = REGISTRY.specs


def node(type: str, /, **inputs: Any) -> dict[str, Any]:
    return {"class_type": type, "inputs": inputs}


BASE = {"b": node("Blank"), "w": node("Whole", value=1), "r": node("Real", value=0.5), "t": node("Word", text="x")}


def found(graph: dict[str, Any], **more: Any) -> list[Problem]:
    """The problems of a graph, with some sources and an effect added."""
    return validate({**BASE, "end": node("Show", picture=["b", 0]), **graph}, SPECS, registry=REGISTRY, **more)


def codes(problems: list[Problem]) -> list[tuple[str | None, str | None, str]]:
    return [(problem.node, problem.field, problem.code) for problem in problems]


GOOD: list[dict[str, Any]] = [
    node("Blur", picture=["b", 0]),
    node("Blur", picture=["b", "PICTURE"], amount=1, mode="hard"),
    node("Blur", picture=["b", "picture"], amount=["w", 0]),
    node("Blur", picture=["b", 0], mode=["t", 0]),
    node("Blur", picture=["b", 0], quite_different=5),
    node("Blank", width=64.0, shade=0),
    node("Stencilled", picture=["b", 0], stencil=None),
    node("Stack", pictures=["b", 0]),
    node("Total", values=[1, 2]),
    node("Total", values={"__value__": [1, 2]}),
    node("Total", values=["w", 0]),
    node("Tell", what=["b", 0]),
    node("Tell", what={"a": [None]}),
    node("Tell", what=None),
    node("Switch", first=True, one=["b", 0], other=["b", 0]),
    node("Switch", first=True, one=["w", 0], other=["r", 0]),
    node("Switch", first=True, one=["r", 0], other=3),
    node("Open", file="anything, for there are no folders"),
    node("Look", file=None),
    node("Crop", picture=["b", 0], start=1, stop=2),
    {"class_type": "Blank"},
    {"class_type": "Blank", "_meta": {"title": "t", "version": 1}},
]


@pytest.mark.parametrize("good", GOOD, ids=str)
def test_a_good_graph_has_no_problems(good: dict[str, Any]) -> None:
    assert found({"x": good}) == []


BAD: list[tuple[dict[str, Any], str | None, str, str]] = [
    (node("Blurr", picture=["b", 0]), "class_type", "unknown_node", "did you mean 'Blur'?"),
    ({"inputs": {}}, "class_type", "unknown_node", "node types: Blank"),
    ({"class_type": 5}, "class_type", "unknown_node", ""),
    ({"class_type": None}, "class_type", "unknown_node", ""),
    ([], None, "not_a_node", "a workflow is"),  # type: ignore[list-item]
    (node("Blur"), "picture", "required_input_missing", 'link ["b", "PICTURE"] of Blank here'),
    (node("Whole"), "value", "required_input_missing", "a whole number"),
    (node("Whole", vlaue=5), "value", "required_input_missing", "'vlaue' is not an input; did you mean 'value'?"),
    (node("Blank", width=8), "width", "value_smaller_than_min", "from 16 up to 4096, such as 64"),
    (node("Blank", width=5000), "width", "value_bigger_than_max", "up to 4096"),
    (node("Blank", width=65), "width", "value_not_multiple", ""),
    (node("Burst", count=0), "count", "value_smaller_than_min", "from 1 up to 9"),
    (node("Blank", width="64"), "width", "wrong_type", "write 64 without quotes"),
    (node("Blank", width=None), "width", "wrong_type", "give a whole number"),
    (node("Blank", width=True), "width", "wrong_type", ""),
    (node("Blank", shade=float("nan")), "shade", "wrong_type", ""),
    (node("Blank", shade=float("inf")), "shade", "wrong_type", ""),
    (node("Blank", shade=10**400), "shade", "wrong_type", ""),
    (node("Word", text=5), "text", "wrong_type", "give a text"),
    (node("Switch", first="yes", one=1, other=2), "first", "wrong_type", "give true or false"),
    (node("Blank", witdh=64), "witdh", "unknown_input", "did you mean 'width'?"),
    (node("Blur", picture=["b", 0], mode="sotf"), "mode", "value_not_in_list", "did you mean 'soft'?"),
    (node("Blur", picture=["b", 0], mode=5), "mode", "value_not_in_list", "choices: soft, hard"),
    (node("Blur", picture=5), "picture", "socket_needs_link", 'link ["b", "PICTURE"]'),
    (node("Blur", picture=None), "picture", "socket_needs_link", ""),
    (node("Blur", picture=["b"]), "picture", "bad_link", 'a link is written ["id", output]'),
    (node("Blur", picture=["b", 0, 0]), "picture", "bad_link", ""),
    (node("Blur", picture=["w", 0]), "picture", "socket_mismatch", 'link ["b", "PICTURE"]'),
    (node("Develop", photo=["b", 0]), "photo", "socket_mismatch", "Snapshot gives one"),
    (node("Whole", value=["r", 0]), "value", "socket_mismatch", 'link ["w", "INT"]'),
    (node("Blur", picture=["b", 0], extra=["w", 0]), "extra", "unknown_input", "inputs of Blur: picture, amount, mode"),
    (node("Blur", picture=["b", 1]), "picture", "unknown_output", "outputs: PICTURE"),
    (node("Blur", picture=["b", -1]), "picture", "unknown_output", ""),
    (node("Blur", picture=["b", "PICTRUE"]), "picture", "unknown_output", "did you mean 'PICTURE'?"),
    (node("Blur", picture=["end", 0]), "picture", "unknown_output", "it has no outputs"),
    (node("Blur", picture=["gone", 0]), "picture", "dangling_link", "nodes: b, w, r, t, end"),
    (node("Total", values=["a", "b"]), "values", "dangling_link", '{"__value__": [...]}'),
    (node("Total", values=5), "values", "wrong_type", '{"__value__": [...]}'),
    (node("Total", values=[]), "values", "value_too_short", ""),
    (node("Total", values=[1, -1]), "values", "value_smaller_than_min", ""),
    (node("Show", picture=["b", 0], prefix="x" * 30), "prefix", "value_too_long", ""),
    (node("Switch", first=True, one=["b", 0], other=["w", 0]), "other", "socket_mismatch", "same type"),
    (node("Switch", first=True, one=["b", 0], other=5), "other", "socket_mismatch", "same type"),
    (node("Crop", picture=["b", 0], start=5, stop=5), "stop", "custom", ""),
    ({"class_type": "Blank", "_meta": {"version": 2}}, "_meta.version", "bad_version", "update the package"),
    ({"class_type": "Blank", "_meta": {"version": "x"}}, "_meta.version", "bad_version", ""),
    ({"class_type": "Blank", "inputs": [1]}, "inputs", "bad_inputs", ""),
    (node("Open", file=5), "file", "wrong_type", ""),
]


@pytest.mark.parametrize(("bad", "field", "code", "hint"), BAD, ids=lambda part: str(part)[:60])
def test_a_mistake_is_told_with_its_place_and_a_hint(bad: Any, field: str | None, code: str, hint: str) -> None:
    (problem,) = found({"x": bad})
    assert (problem.node, problem.field, problem.code) == ("x", field, code)
    assert hint in (problem.hint or "")
    assert problem.message
    assert str(problem).startswith("node x")
    Problem.model_validate_json(problem.model_dump_json())


def test_all_mistakes_are_told_at_once() -> None:
    graph = {f"x{n}": bad for n, (bad, *_) in enumerate(BAD)}
    problems = found(graph)
    assert sorted(codes(problems), key=str) == sorted(((f"x{n}", field, code) for n, (_, field, code, _) in enumerate(BAD)), key=str)


def test_five_mistakes_in_one_graph_name_node_and_title() -> None:
    graph = {
        "1": {**node("Blnk"), "_meta": {"title": "paper"}},
        "2": {**node("Blur", picture=["1", 0], amount=3), "_meta": {"title": "first"}},
        "3": {**node("Blur", picture=["2", 5]), "_meta": {"title": "second"}},
        "4": node("Blur", mode="other"),
        "5": node("Show", picture=["4", 0], prefix=7),
    }
    problems = validate(graph, SPECS)
    assert codes(problems) == [
        ("1", "class_type", "unknown_node"),
        ("2", "amount", "value_bigger_than_max"),
        ("3", "picture", "unknown_output"),
        ("4", "mode", "value_not_in_list"),
        ("4", "picture", "required_input_missing"),
        ("5", "prefix", "wrong_type"),
    ]
    assert [problem.title for problem in problems] == ["paper", "first", "second", "Blur", "Blur", "Show"]
    assert all(problem.hint for problem in problems)
    assert str(problems[1]) == 'node 2 (Blur "first"), amount: 3 is bigger than 1 - give a number from 0 up to 1, such as 0.1'


def test_a_mismatch_says_what_came_and_what_is_wanted() -> None:
    (problem,) = found({"s": node("Split", picture=["b", 0]), "x": node("Blur", picture=["s", "stencil"])})
    assert (problem.got, problem.wanted) == ("STENCIL", "PICTURE")
    assert problem.message == "STENCIL given by node s (Split), PICTURE wanted"
    assert problem.hint == "use its output 'picture'"


def test_a_hint_never_suggests_a_link_that_closes_a_circle() -> None:
    graph = {"x": node("Blur"), "y": node("Blur", picture=["x", 0]), "end": node("Show", picture=["y", 0])}
    (problem,) = validate(graph, SPECS)
    assert problem.hint is not None
    assert '"x"' not in problem.hint
    assert '"y"' not in problem.hint


def test_a_cycle_is_told_once_with_its_path() -> None:
    graph = {
        "1": {**node("Blur", picture=["3", 0]), "_meta": {"title": "first"}},
        "2": node("Blur", picture=["1", 0]),
        "3": node("Blur", picture=["2", 0]),
        "4": node("Show", picture=["3", 0]),
        "5": node("Blur", picture=["5", 0]),
    }
    one, other = validate(graph, SPECS)
    assert (one.code, one.node, one.got) == ("cycle", "1", ["1", "2", "3", "1"])
    assert "1 (first) -> 2 (Blur) -> 3 (Blur) -> 1 (first)" in one.message
    assert (other.code, other.node, other.got) == ("cycle", "5", ["5", "5"])


def test_mistakes_in_and_behind_a_cycle_are_told_too() -> None:
    graph = {
        "1": node("Blur", picture=["2", 0], amount=9),
        "2": node("Blur", picture=["1", 0], mode="no"),
        "3": node("Show", picture=["2", 0], prefix=5),
    }
    assert codes(validate(graph, SPECS)) == [
        ("1", None, "cycle"),
        ("1", "amount", "value_bigger_than_max"),
        ("2", "mode", "value_not_in_list"),
        ("3", "prefix", "wrong_type"),
    ]


@pytest.mark.parametrize(
    ("graph", "wanted", "expected"),
    [
        ({}, None, ["no_outputs"]),
        ({"1": node("Blank")}, None, ["no_outputs"]),
        ({"1": node("Blank")}, ["1"], []),
        ({"1": node("Blank")}, [], ["no_outputs"]),
        ({"1": node("Blank")}, ["2"], ["no_such_node"]),
        ({"1": node("Shw", picture=["2", 0]), "2": node("Blank")}, None, ["unknown_node"]),
        ({"1": node("Zzzzz")}, None, ["unknown_node", "no_outputs"]),
    ],
)
def test_nothing_to_run(graph: Any, wanted: list[str] | None, expected: list[str]) -> None:
    assert [problem.code for problem in validate(graph, SPECS, wanted=wanted)] == expected


def test_only_what_the_wanted_nodes_need_is_looked_at_and_all_types() -> None:
    graph = {
        "1": node("Blank"),
        "2": node("Show", picture=["1", 0]),
        "3": node("Blur", amount=5),
        "4": node("Show", picture=["3", 0]),
        "5": node("Blur", picture=["5", 0]),
        "6": node("Nonsense"),
    }
    assert codes(validate(graph, SPECS, wanted=["2"])) == [("6", "class_type", "unknown_node")]
    assert [problem.node for problem in validate(graph, SPECS, wanted=["4"])] == ["6", "3", "3"]
    assert [problem.node for problem in validate(graph, SPECS)] == ["6", "5", "3", "3"]
    assert wanted_nodes(Workflow.from_json(graph), SPECS) == ["2", "4"]


def test_generic_outputs_carry_what_their_inputs_carry_however_deep() -> None:
    graph = dict(BASE)
    last = "b"
    for n in range(50):
        graph[f"s{n}"] = node("Switch", first=True, one=[last, 0], other=[last, 0])
        last = f"s{n}"
    assert validate({**graph, "end": node("Show", picture=[last, 0])}, SPECS) == []
    (problem,) = validate({**graph, "x": node("Whole", value=[last, 0]), "end": node("Show", picture=[last, 0])}, SPECS)
    assert (problem.node, problem.got, problem.wanted) == ("x", "PICTURE", "INT")


def test_the_common_base_of_two_values_is_what_a_switch_gives() -> None:
    graph = {"p": node("Snapshot"), "s": node("Switch", first=True, one=["p", 0], other=["b", 0]), "x": node("Blur", picture=["s", 0])}
    assert found(graph) == []
    (problem,) = found({**graph, "y": node("Develop", photo=["s", 0])})
    assert (problem.node, problem.code) == ("y", "socket_mismatch")


def test_the_order_in_the_document_does_not_matter_for_types() -> None:
    graph = {"x": node("Blur", picture=["s", 0]), "s": node("Switch", first=True, one=["w", 0], other=["w", 0])}
    assert [(problem.node, problem.code) for problem in found(graph)] == [("x", "socket_mismatch")]


def test_a_nodes_own_check_sees_literals_defaults_and_links() -> None:
    (problem,) = found({"p": node("Snapshot"), "x": node("Crop", picture=["p", 0])})
    assert (problem.code, problem.field, problem.message) == ("custom", None, "photos are not cropped (see p.PHOTO)")
    stop, picture = found({"p": node("Snapshot"), "x": node("Crop", picture=["p", 0], stop=-1)})
    assert (stop.field, stop.got) == ("stop", -1)
    assert picture.field is None
    assert codes(found({"x": node("Crop", picture=["b", 0], start="x")})) == [("x", "start", "wrong_type")]
    graph = {"x": node("Crop", picture=["b", 0], start=5, stop=5), "end": node("Show", picture=["x", 0])}
    assert validate({**BASE, **graph}, SPECS) == []
    assert needs_classes(Workflow.from_json(graph), SPECS)
    assert not needs_classes(Workflow.from_json(BASE), SPECS)


def test_a_check_that_fails_is_a_problem_and_not_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(inputs: Any) -> Any:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(REGISTRY["Crop"], "check", failing)
    (problem,) = found({"x": node("Crop", picture=["b", 0])})
    assert (problem.node, problem.code) == ("x", "check_failed")
    assert "ZeroDivisionError: oops" in problem.message


def test_files_are_looked_up(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    for name in ("models/checkpoints/deep/a.safetensors", "output/made.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    for good in ("tiny", "deep/a.safetensors", "deep\\a.safetensors"):
        assert found({"x": node("Open", file=good)}, folders=folders) == []
    assert found({"x": node("Look", file="made.png [output]")}, folders=folders) == []
    (problem,) = found({"x": node("Open", file="tinny")}, folders=folders)
    assert (problem.code, problem.wanted) == ("value_not_in_list", ["tiny", "deep/a.safetensors"])
    assert problem.hint == "did you mean 'tiny'?"
    (problem,) = found({"x": node("Open", file="../../secret")}, folders=folders)
    assert problem.code == "value_not_in_list"
    (problem,) = found({"x": node("Look", file="a.png")}, folders=folders)
    assert problem.hint == f"put files into {tmp_path / 'input'}"


def test_constants_are_taken_as_they_are() -> None:
    workflow = Workflow({"1": NodeEntry("Show", {"picture": Constant(object(), "key")})})
    assert validate(workflow, SPECS) == []


@pytest.mark.parametrize("odd", [object(), {1, 2}, float("nan"), [float("inf")], b"bytes", ["\ud800"]], ids=lambda odd: type(odd).__name__)
def test_what_came_is_told_in_json_however_odd(odd: Any) -> None:
    workflow = Workflow({"1": NodeEntry("Blank", {"width": odd}), "2": NodeEntry("Show", {"picture": Link("1")})})
    (problem,) = validate(workflow, SPECS)
    json.dumps(problem.got, allow_nan=False)


def test_notes_tell_what_does_not_stop_a_run() -> None:
    graph = {"1": node("Old picture", left="over"), "2": node("Show", picture=["1", 0])}
    assert validate(graph, SPECS) == []
    assert codes(notes(Workflow.from_json(graph), SPECS)) == [("1", None, "deprecated"), ("1", "left", "unknown_input")]


def test_the_canonical_inputs_are_all_that_are_declared_in_order() -> None:
    entry = NodeEntry("Blur", {"amount": 1, "extra": 5, "picture": Link("b")})
    assert canonical(entry, SPECS["Blur"]) == {"picture": Link("b"), "amount": 1.0, "mode": "soft"}
    assert list(canonical(entry, SPECS["Blur"])) == ["picture", "amount", "mode"]
    assert canonical(NodeEntry("Blank", {"width": 64.0}), SPECS["Blank"]) == canonical(NodeEntry("Blank"), SPECS["Blank"])


def test_depth_is_no_matter() -> None:
    count = 10_000
    graph = {str(n): node("Blur", picture=[str(n - 1), 0], amount=0.5) for n in range(1, count)}
    graph |= {"0": node("Blank"), "end": node("Show", picture=[str(count - 1), 0])}
    assert validate(graph, SPECS, registry=REGISTRY) == []
    graph["0"] = node("Blur", picture=[str(count - 1), 0])
    (problem,) = validate(graph, SPECS)
    assert (problem.code, len(problem.got)) == ("cycle", count + 1)
    assert len(problem.message) < 400


def test_thousands_of_different_mistakes_are_all_told() -> None:
    graph = {str(n): node(f"Unknown{n}", a=n) for n in range(3000)}
    assert len(validate({**graph, "end": node("Show", picture=["0", 0])}, SPECS)) == 3000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
IDS = st.sampled_from(["1", "2", "3", "4", "5"])
LINKS = st.tuples(IDS, st.integers(-1, 3) | st.sampled_from(["PICTURE", "picture", "value", "x"])).map(list)
VALUES = LINKS | JSON | st.sampled_from([0, 1, 64, 0.5, True, "soft", "tiny", {"__value__": [1]}])
FIELDS = sorted({entry.name for spec in SPECS.values() for entry in spec.inputs} | {"extra"})
ENTRIES = st.fixed_dictionaries(
    {"class_type": st.sampled_from([*SPECS, "Nonsense"]) | JSON},
    optional={
        "inputs": st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4) | JSON,
        "_meta": st.fixed_dictionaries({}, optional={"title": JSON, "version": st.integers(0, 4) | JSON}) | JSON,
    },
)


@settings(max_examples=200)
@given(st.dictionaries(IDS, ENTRIES | JSON, max_size=5) | JSON, st.none() | st.lists(IDS, max_size=2))
def test_any_json_gives_a_list_of_problems_and_never_an_exception(document: Any, wanted: list[str] | None) -> None:
    for registry in (None, REGISTRY):
        problems = validate(document, SPECS, wanted=wanted, registry=registry)
        for problem in problems:
            assert problem.code
            assert str(problem)
            problem.model_dump_json()


@given(st.dictionaries(IDS, ENTRIES, max_size=5))
def test_wanting_less_never_finds_more(graph: dict[str, Any]) -> None:
    everything = {str(problem) for problem in validate(graph, SPECS) if problem.code != "no_outputs"}
    for id in graph:
        told = {str(problem) for problem in validate(graph, SPECS, wanted=[id]) if problem.code != "cycle"}
        assert {line.split(" - ")[0] for line in told} <= {line.split(" - ")[0] for line in everything}
