from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import pytest
from pydantic import Field, ValidationError
from simple_nodes import Blank, Blur, Burst, Crop, Look, Open, Photo, Picture, Show, Split, Stencil, Switch, Turn, Unit

from graph_engine.errors import DeclarationError
from graph_engine.node import File, Node

if TYPE_CHECKING:
    from nowhere import Missing  # type: ignore[import-not-found]

    from graph_engine.context import Context


def test_the_class_says_everything_once() -> None:
    spec = Blur.spec
    assert (spec.type, spec.title, spec.category, spec.version) == ("Blur", "Blur", "picture", 1)
    assert spec.description == "Mixes a picture with grey."
    assert [entry.name for entry in spec.inputs] == ["picture", "amount", "mode"]
    picture, amount, mode = spec.inputs
    assert (picture.types, picture.required, picture.is_widget) == (("PICTURE",), True, False)
    assert (amount.minimum, amount.maximum, amount.default, amount.step) == (0, 1, 0.1, 0.05)
    assert amount.description == "between nothing and all"
    assert (mode.choices, mode.default, mode.is_widget) == (("soft", "hard"), "soft", True)
    assert [(each.name, each.types) for each in spec.outputs] == [("PICTURE", ("PICTURE",))]


def test_class_keywords_reach_the_spec() -> None:
    class Given(
        Node, category="a/b", name="given name", title="Given", version=4, output=True, cache=False,
        aliases=["x"], deprecated=True, experimental=True,
    ):  # fmt: skip
        def run(self, ctx: Context) -> None: ...

    spec = Given.spec
    assert (spec.type, spec.title, spec.category, spec.version) == ("given name", "Given", "a/b", 4)
    assert (spec.output, spec.cache, spec.deprecated, spec.experimental) == (True, False, True, True)
    assert spec.aliases == ("x",)


def test_a_title_is_not_inherited() -> None:
    class Parent(Node, category="a", title="The parent"):
        def run(self, ctx: Context) -> None: ...

    class Child(Parent, category="a"):
        pass

    assert (Parent.spec.title, Child.spec.title) == ("The parent", "Child")


def test_exclusive_bounds_of_whole_numbers_move_to_the_next_one() -> None:
    count = Burst.spec.inputs[0]
    assert (count.minimum, count.maximum, count.above, count.below) == (1, 9, False, False)


def test_what_is_said_inside_an_optional_counts() -> None:
    class Maybe(Node, category="a"):
        amount: Unit | None = None
        file: Annotated[str, File("loras")] | None = None
        text: Annotated[str, Field(json_schema_extra={"multiline": True}, description="words")] | None = None

        def run(self, ctx: Context) -> None: ...

    amount, file, text = Maybe.spec.inputs
    assert (amount.minimum, amount.maximum, amount.optional, amount.required) == (0, 1, True, False)
    assert (file.folder, file.types, file.optional) == ("loras", ("COMBO",), True)
    assert (text.widget, text.description) == ({"multiline": True}, "words")


def test_what_is_said_at_the_field_counts_before_its_type() -> None:
    class Nearest(Node, category="a"):
        amount: Unit = Field(0.5, le=0.75, description="mine")

        def run(self, ctx: Context) -> None: ...

    amount = Nearest.spec.inputs[0]
    assert (amount.minimum, amount.maximum, amount.description) == (0, 0.75, "mine")


def test_files_name_their_folder() -> None:
    file = Open.spec.inputs[0]
    assert (file.folder, file.types, file.embedded) == ("checkpoints", ("COMBO",), {"tiny": "graph_engine:registry.py"})
    assert Look.spec.inputs[0].widget == {"upload": True}


def test_several_outputs_have_names_and_descriptions() -> None:
    assert [(each.name, each.types, each.description) for each in Split.spec.outputs] == [
        ("stencil", ("STENCIL",), "where it is dark"),
        ("picture", ("PICTURE",), ""),
    ]


def test_lists_generics_and_effects() -> None:
    assert Burst.spec.outputs[0].list
    assert [(each.lazy, each.variable) for each in Switch.spec.inputs] == [(False, None), (True, "T"), (True, "T")]
    assert [(each.name, each.variable) for each in Switch.spec.outputs] == [("value", "T")]
    assert Switch.spec.generic
    assert not Blur.spec.generic
    assert Show.spec.outputs == ()
    assert (Crop.spec.checks, Turn.spec.checks, Turn.spec.migrates, Crop.spec.migrates) == (True, False, True, False)


def test_values_pass_through_a_node_untouched_and_frozen() -> None:
    picture = Photo(0.5)
    node = Blur(picture=picture)
    assert node.picture is picture
    with pytest.raises(ValidationError):
        node.amount = 0.5  # type: ignore[misc]


@pytest.mark.parametrize("inputs", [{}, {"picture": Stencil()}, {"picture": Picture(), "amount": 2}, {"picture": Picture(), "more": 1}])
def test_a_node_with_wrong_inputs_cannot_be_made(inputs: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Blur(**inputs)


def test_an_abstract_base_shares_its_fields() -> None:
    class Shared(Node):
        amount: Unit = 0.5

    class Concrete(Shared, category="a"):
        picture: Picture

        class Out(NamedTuple):
            picture: Picture

        def run(self, ctx: Context) -> Out: ...

    class Again(Concrete, category="a"):
        size: int = 1

    assert not hasattr(Shared, "spec")
    assert [entry.name for entry in Concrete.spec.inputs] == ["amount", "picture"]
    assert [entry.name for entry in Again.spec.inputs] == ["amount", "picture", "size"]
    assert [output.name for output in Again.spec.outputs] == ["picture"]


def test_an_async_run_declares_like_any_other() -> None:
    class Later(Node, category="a"):
        async def run(self, ctx: Context) -> Picture: ...

    assert Later.spec.outputs[0].types == ("PICTURE",)


def _run(self: Any, ctx: Any) -> None: ...


def _no_return(self: Any, ctx: Any): ...  # type: ignore[no-untyped-def]


def _no_context(self: Any) -> None: ...


def _odd(self: Any, ctx: Any) -> dict: ...  # type: ignore[type-arg]


def _tuple(self: Any, ctx: Any) -> tuple[Picture, Stencil]: ...


def _unseen(self: Any, ctx: Any) -> Missing: ...


@pytest.mark.filterwarnings("ignore:Field name")
@pytest.mark.parametrize("name", ["run", "check", "wants", "migrate"])
def test_the_names_of_methods_are_no_input_names(name: str) -> None:
    body = {"__annotations__": {name: int}, "__module__": __name__, name: 1}
    with pytest.raises(DeclarationError, match=name):
        type("Made", (Node,), body, category="test")


@pytest.mark.parametrize(
    ("fields", "values", "run", "said"),
    [
        ({"a": dict}, {}, _run, r"Made\.a: .*dict"),
        ({"a": int}, {"a": "x"}, _run, r"Made\.a: the default 'x' is not a whole number"),
        ({"a": Unit}, {"a": 2.0}, _run, r"Made\.a: the default 2\.0 is bigger than 1"),
        ({"a": Literal["x"]}, {"a": "y"}, _run, r"Made\.a: the default 'y' is not one of the choices"),
        ({"a": Picture}, {"a": None}, _run, r"Made\.a: the default None needs"),
        ({"a": Any}, {"a": object()}, _run, r"Made\.a: the default .* has no JSON form"),
        ({"a": Annotated[int, Field(ge=5, le=2)]}, {}, _run, r"Made\.a: the smallest value 5 is above the largest 2"),
        ({"a": Annotated[Picture, File("loras")]}, {}, _run, r"Made\.a: a file is named by a text, not by PICTURE"),
        ({"a": "Nowhere"}, {}, _run, r"Made\.a: the name 'Nowhere' cannot be read"),
        ({}, {}, _no_return, r"Made\.run: annotate what it returns"),
        ({}, {}, _no_context, r"Made\.run: takes \(self\), not \(self, ctx\)"),
        ({}, {}, _odd, r"Made\.run: .*dict"),
        ({}, {}, _tuple, r"Made\.run: .*tuple"),
        ({}, {}, _unseen, r"Made\.run: name 'Missing' is not defined"),
        ({}, {}, None, r"Made: a node needs a method `run\(self, ctx\)`"),
    ],
)
def test_a_mistaken_declaration_fails_at_once_with_its_place(fields: dict[str, Any], values: dict[str, Any], run: Any, said: str) -> None:
    body = {"__annotations__": fields, "__module__": __name__, **values, **({"run": run} if run else {})}
    with pytest.raises(DeclarationError, match=said):
        type("Made", (Node,), body, category="test")


@pytest.mark.parametrize("keywords", [{"category": ""}, {"category": "a", "versoin": 2}, {"category": "a", "version": 0}])
def test_mistaken_class_keywords_fail_at_once(keywords: dict[str, Any]) -> None:
    with pytest.raises(DeclarationError):
        type("Made", (Node,), {"run": _run, "__module__": __name__}, **keywords)


def test_the_schema_of_a_node_names_its_sockets() -> None:
    assert Blur.model_json_schema()["properties"]["picture"]["socket"] == "PICTURE"
    assert Blank.model_json_schema()["properties"]["width"]["multipleOf"] == 8


@pytest.mark.skipif(sys.version_info < (3, 12), reason="`type X = ...` is syntax of Python 3.12")
def test_a_type_alias_statement_is_read() -> None:
    space: dict[str, Any] = {"Annotated": Annotated, "Field": Field}
    exec("type Steps = Annotated[int, Field(ge=1)]", space)
    made = type("Made", (Node,), {"__annotations__": {"a": space["Steps"]}, "__module__": __name__, "run": _run}, category="t")
    assert made.spec.inputs[0].minimum == 1
