from __future__ import annotations

from typing import Annotated, Any, Literal, Optional, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, TypeAdapter, ValidationError
from simple_nodes import Photo, Picture, Stencil

from graph_engine.errors import DeclarationError
from graph_engine.sockets import ANY, Lazy, LazyInput, Socket, accepts, marks, read_annotation, with_instances

T = TypeVar("T")
P = TypeVar("P", Picture, Stencil)
B = TypeVar("B", bound=Picture)

NAMES = st.lists(st.sampled_from(["INT", "FLOAT", "STRING", "COMBO", "PICTURE", "MASK", ANY]), min_size=1).map(tuple)


@pytest.mark.parametrize(
    ("annotation", "socket"),
    [
        (int, Socket(("INT",))),
        (bool, Socket(("BOOLEAN",))),
        (float, Socket(("FLOAT",))),
        (str, Socket(("STRING",))),
        (Any, Socket((ANY,))),
        (Picture, Socket(("PICTURE",))),
        (Photo, Socket(("PHOTO",))),
        (list[Picture], Socket(("PICTURE",), list=True)),
        (Picture | None, Socket(("PICTURE",), optional=True)),
        (Optional[Picture], Socket(("PICTURE",), optional=True)),  # noqa: UP045
        (Picture | Stencil, Socket(("PICTURE", "STENCIL"))),
        (float | Picture | None, Socket(("FLOAT", "PICTURE"), optional=True)),
        (list[int] | None, Socket(("INT",), list=True, optional=True)),
        (Literal["a", "b"], Socket(("COMBO",), choices=("a", "b"))),
        (Literal["a"] | None, Socket(("COMBO",), optional=True, choices=("a",))),
        (Literal[1] | Literal[2] | int, Socket(("COMBO", "INT"), choices=(1, 2))),
        (Annotated[int, Field(ge=1)], Socket(("INT",))),
        (Annotated[int, Field(ge=1)] | None, Socket(("INT",), optional=True)),
        (Lazy[Picture], Socket(("PICTURE",))),
        (T, Socket((ANY,), variable="T")),
        (list[T], Socket((ANY,), list=True, variable="T")),
        (P, Socket(("PICTURE", "STENCIL"), variable="P")),
        (B, Socket(("PICTURE",), variable="B")),
    ],
)
def test_an_annotation_reads_as_a_socket(annotation: Any, socket: Socket) -> None:
    assert read_annotation(annotation, "here") == socket


@pytest.mark.parametrize(
    "annotation",
    [dict, object, list[list[int]], list[int | None], int | list[int], bytes, Literal[1.5], T | None | int, "Later"],
)
def test_what_cannot_travel_is_refused_with_its_place(annotation: Any) -> None:
    with pytest.raises(DeclarationError, match=r"^Some\.where: "):
        read_annotation(annotation, "Some.where")


def test_an_output_also_provides_the_types_of_its_bases() -> None:
    assert read_annotation(Photo, "here", bases=True).names == ("PHOTO", "PICTURE")
    assert read_annotation(Picture, "here", bases=True).names == ("PICTURE",)


def test_a_subclass_fits_where_its_base_is_wanted_but_not_the_other_way() -> None:
    photo, picture = (read_annotation(each, "here", bases=True).names for each in (Photo, Picture))
    assert accepts(read_annotation(Picture, "here").names, photo)
    assert not accepts(read_annotation(Photo, "here").names, picture)


@pytest.mark.parametrize(
    ("wanted", "given", "fits"),
    [
        ("FLOAT", "INT", True),
        ("INT", "FLOAT", False),
        ("STRING", "COMBO", True),
        ("COMBO", "STRING", True),
        ("INT", "BOOLEAN", False),
        ("FLOAT", "STRING", False),
        (ANY, "MODEL", True),
        ("MODEL", ANY, True),
    ],
)
def test_which_scalars_widen(wanted: str, given: str, fits: bool) -> None:
    assert accepts((wanted,), (given,)) is fits


@given(NAMES, NAMES)
def test_accepting_more_never_refuses_what_was_accepted(wanted: tuple[str, ...], given: tuple[str, ...]) -> None:
    assert accepts(given, given)
    assert accepts((*wanted, *given), given)
    if accepts(wanted, given):
        assert accepts((*wanted, "OTHER"), given)
        assert accepts(wanted, (*given, "OTHER"))


def test_marks_are_found_inside_unions_and_lists() -> None:
    found = list(marks(Lazy[Annotated[int, Field(ge=1, description="d")]] | None))  # type: ignore[valid-type]
    assert any(isinstance(mark, LazyInput) for mark in found)
    assert any(getattr(mark, "ge", None) == 1 for mark in found)
    assert any(getattr(mark, "description", None) == "d" for mark in found)
    assert any(getattr(mark, "le", None) == 4 for mark in marks(list[Annotated[int, Field(le=4)]]))


@pytest.mark.parametrize("annotation", [Picture, Picture | None, Annotated[Picture, "x"], Annotated[Picture, "x"] | None])
def test_a_value_passes_untouched_and_others_are_refused(annotation: Any) -> None:
    adapter = TypeAdapter(with_instances(annotation))
    value = Photo(0.5)
    assert adapter.validate_python(value) is value
    with pytest.raises(ValidationError):
        adapter.validate_python({"shade": 0.5})


def test_values_in_a_list_pass_untouched() -> None:
    value = Picture()
    assert TypeAdapter(with_instances(list[Picture])).validate_python([value])[0] is value


def test_bounds_hold_after_the_exchange() -> None:
    adapter = TypeAdapter(with_instances(Annotated[int, Field(ge=1)] | None))
    assert adapter.validate_python(None) is None
    with pytest.raises(ValidationError):
        adapter.validate_python(0)
