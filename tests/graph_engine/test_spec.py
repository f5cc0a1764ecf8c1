from __future__ import annotations

import json
import math
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, TypeAdapter, ValidationError
from simple_nodes import ALL, Picture, Split

from graph_engine.declaration import File
from graph_engine.node import Node
from graph_engine.sockets import with_instances
from graph_engine.spec import InputSpec, NodeSpec, Problem

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


def declared(annotation: Any, **values: Any) -> InputSpec:
    """The input spec of a field with this annotation."""
    body = {"__annotations__": {"field": annotation}, "__module__": __name__, "run": _run, **values}
    made = type("Made", (Node,), body, category="test")
    return made.spec.inputs[0]


def _run(self: Any, ctx: Any) -> None:
    return None


ANNOTATIONS: list[Any] = [
    int,
    float,
    bool,
    str,
    Annotated[int, Field(ge=1, le=10)],
    Annotated[int, Field(gt=0, lt=10)],
    Annotated[int, Field(ge=16, multiple_of=8)],
    Annotated[int, Field(ge=0, lt=2**64)],
    Annotated[float, Field(gt=0, lt=1)],
    Annotated[float, Field(ge=-1, le=1)],
    Annotated[float, Field(multiple_of=0.1)],
    Annotated[str, Field(min_length=1, max_length=3)],
    Annotated[str, Field(pattern="^a+$")],
    Literal["a", "b"],
    Literal[1, 2],
    Literal[True, "auto"],
    Annotated[int, Field(ge=1)] | None,
    list[int],
    Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=1)],
    float | Picture,
]
LITERALS = JSON | st.sampled_from([0, 1, 2, 8, 9, 10, 16, 24, 0.3, 0.5, 1.0, 2.0, True, "a", "b", "aa", [], [1], [0.5, 1], 2**64])


BOTH = [pytest.param(TypeAdapter(with_instances(each)), declared(each), id=str(each)) for each in ANNOTATIONS]


@pytest.mark.parametrize(("adapter", "spec"), BOTH)
@given(value=LITERALS)
def test_an_accepted_literal_is_what_pydantic_accepts(adapter: TypeAdapter[Any], spec: InputSpec, value: Any) -> None:
    """Nothing that validation lets through fails when the node is made, and the canonical form is stable."""
    if spec.refuse(value) is not None or (spec.multiple_of == 0.1 and value is not None and abs(value) > 1e9):
        return  # of numbers that large, fractions are lost in rounding
    canonical = spec.canonical(value)
    assert spec.refuse(canonical) is None
    assert json.dumps(spec.canonical(canonical)) == json.dumps(canonical)
    adapter.validate_python(canonical)


@pytest.mark.parametrize(("adapter", "spec"), BOTH)
@given(value=LITERALS)
def test_a_literal_is_refused_only_where_pydantic_refuses(adapter: TypeAdapter[Any], spec: InputSpec, value: Any) -> None:
    try:
        adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError:
        return
    numbers = value if isinstance(value, list) else [value]
    if any((isinstance(each, float) and not math.isfinite(each)) or (isinstance(each, int) and abs(each) >> 1000) for each in numbers):
        return  # pydantic alone would let these be, as infinity
    if value in (0, 1) and spec.choices:
        return  # for pydantic, true is 1
    if spec.multiple_of == 0.1 and value is not None and abs(value) > 1e9:
        return
    assert spec.refuse(value) is None


@pytest.mark.parametrize(
    ("annotation", "value", "code"),
    [
        (int, "5", "wrong_type"),
        (int, 1.5, "wrong_type"),
        (int, True, "wrong_type"),
        (int, None, "wrong_type"),
        (float, float("nan"), "wrong_type"),
        (float, 10**400, "wrong_type"),
        (bool, 1, "wrong_type"),
        (str, 5, "wrong_type"),
        (str, ["a"], "wrong_type"),
        (Annotated[int, Field(ge=1)], 0, "value_smaller_than_min"),
        (Annotated[int, Field(gt=1)], 1, "value_smaller_than_min"),
        (Annotated[float, Field(gt=0)], 0, "value_smaller_than_min"),
        (Annotated[float, Field(lt=1)], 1.0, "value_bigger_than_max"),
        (Annotated[int, Field(le=3)] | None, 4, "value_bigger_than_max"),
        (Annotated[int, Field(multiple_of=8)], 12, "value_not_multiple"),
        (Literal["a"], "b", "value_not_in_list"),
        (Literal[1, 2], True, "value_not_in_list"),
        (Literal[1, 2], [1], "value_not_in_list"),
        (Picture, 5, "socket_needs_link"),
        (Picture | None, 5, "socket_needs_link"),
        (float | Picture, "x", "wrong_type"),
        (Annotated[float, Field(ge=0)] | Picture, -1, "value_smaller_than_min"),
        (list[int], 5, "wrong_type"),
        (list[int], [1, "2"], "wrong_type"),
        (Annotated[list[int], Field(min_length=2)], [1], "value_too_short"),
        (Annotated[str, Field(max_length=2)], "abc", "value_too_long"),
        (Annotated[str, Field(pattern="^a")], "b", "value_not_matching"),
        (Annotated[str, File("loras")], 5, "wrong_type"),
    ],
)
def test_why_a_literal_is_refused(annotation: Any, value: Any, code: str) -> None:
    objection = declared(annotation).refuse(value)
    assert objection is not None
    assert objection[0] == code


@pytest.mark.parametrize(
    ("annotation", "value", "canonical"),
    [
        (int, 20.0, 20),
        (float, 20, 20.0),
        (Literal[1, 2], 2.0, 2),
        (list[float], [1, 2], [1.0, 2.0]),
        (int | float, 1, 1),
        (Annotated[str, File("loras")], "a\\b.safetensors", "a/b.safetensors"),
        (str, "a\\b", "a\\b"),
        (Picture | None, None, None),
    ],
)
def test_literals_that_mean_the_same_have_one_form(annotation: Any, value: Any, canonical: Any) -> None:
    found = declared(annotation).canonical(value)
    assert (found, type(found)) == (canonical, type(canonical))


def test_an_omitted_default_is_canonical() -> None:
    default = declared(float, field=7).default
    assert (default, type(default)) == (7.0, float)


def test_specs_survive_json() -> None:
    for cls in ALL:
        text = cls.spec.model_dump_json(exclude_defaults=True)
        assert NodeSpec.model_validate_json(text) == cls.spec


def test_large_bounds_survive_json() -> None:
    spec = declared(Annotated[int, Field(ge=0, lt=2**64)])
    again = InputSpec.model_validate_json(spec.model_dump_json())
    assert again.maximum == 2**64 - 1
    assert isinstance(again.maximum, int)


@pytest.mark.parametrize(
    ("ref", "index"),
    [(0, 0), (1, 1), (2, None), (-1, None), (True, None), ("picture", 1), ("PICTURE", 1), ("nothing", None), ("", None)],
)
def test_outputs_by_position_and_name(ref: int | str, index: int | None) -> None:
    assert Split.spec.output_index(ref) == index


def test_a_problem_says_where_what_and_what_may_help() -> None:
    problem = Problem(code="c", message="wrong", node="3", title="mine", class_type="Blur", field="amount", hint="less")
    assert str(problem) == 'node 3 (Blur "mine"), amount: wrong - less'
    assert str(Problem(code="c", message="wrong")) == "wrong"
    assert str(Problem(code="c", message="wrong", node="3")) == "node 3: wrong"
