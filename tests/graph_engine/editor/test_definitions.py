"""What the editor is told agrees with what the engine accepts: bounds, steps, defaults, choices, and the order of widgets."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from graph_engine.catalogue import Catalogue
from graph_engine.context import Context
from graph_engine.editor.definitions import Definitions, definition, definitions
from graph_engine.editor.fields import fields
from graph_engine.files import Folders
from graph_engine.node import File, Node
from graph_engine.registry import Registry
from graph_engine.sockets import Lazy
from graph_engine.spec import InputSpec, NodeSpec

T = TypeVar("T")


class Picture:
    """Some pixels. They are many."""

    socket: ClassVar[str] = "PICTURE"


class Photo(Picture):
    socket: ClassVar[str] = "PHOTO"


class Everything(Node, category="test/all", title="All of it", aliases=("misc",), experimental=True):
    """Has an input of every kind (Someone 2020)."""

    picture: Picture
    either: Annotated[Picture | Photo, Field(description="One of two.")]
    seed: Annotated[int, Field(ge=0, le=2**64 - 1, json_schema_extra={"control_after_generate": True})] = 0
    file: Annotated[str, File("input", embedded=(("own.png", "nodes:own.png"),), upload=True)]
    count: int = 3
    share: Annotated[float, Field(gt=0, le=1, json_schema_extra={"step": 0.1})] = 0.5
    side: Annotated[int, Field(ge=1, le=100, multiple_of=8)]
    text: Annotated[str, Field(json_schema_extra={"multiline": True})] = "a"
    on: bool = False
    mode: Literal["x", "y"] = "y"
    late: Lazy[float] = 1.0
    mask: Picture | None = None
    limit: int | None = None
    numbers: list[int] = []
    anything: Any = None

    class Out(NamedTuple):
        photo: Annotated[Photo, Field(description="Sharp.")]
        counts: list[int]

    def run(self, ctx: Context) -> Out: ...


class Pass(Node, category="test"):
    one: T
    noise_seed: int = 0

    def run(self, ctx: Context) -> T: ...


class Save(Node, category="test", output=True, deprecated=True):
    """Writes."""

    picture: Picture

    def run(self, ctx: Context) -> None: ...


@pytest.fixture
def made(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "mine.png").touch()
    return definition(Everything.spec, Folders(tmp_path).choices)


def options(made: dict[str, Any], name: str) -> dict[str, Any]:
    return {**made["input"]["required"], **made["input"]["optional"]}[name][1]


def kind(made: dict[str, Any], name: str) -> Any:
    return {**made["input"]["required"], **made["input"]["optional"]}[name][0]


def test_the_node_says_who_it_is(made):
    assert (made["name"], made["display_name"], made["category"]) == ("Everything", "All of it", "test/all")
    assert made["description"] == "Has an input of every kind (Someone 2020)."
    assert made["search_aliases"] == ["misc"]
    assert (made["output_node"], made["deprecated"], made["experimental"]) == (False, False, True)
    save = definition(Save.spec, lambda entry: None)
    assert (save["output_node"], save["deprecated"], save["output"], save["output_name"]) == (True, True, [], [])


def test_it_is_json(made):
    assert json.loads(json.dumps(made, allow_nan=False)) == made


def test_outputs_carry_their_bases_so_that_they_fit_where_a_base_is_wanted(made):
    assert made["output"] == ["PHOTO,PICTURE", "INT"]
    assert made["output_name"] == ["photo", "counts"]
    assert made["output_is_list"] == [False, True]
    assert made["output_tooltips"] == ["Sharp.", None]


def test_what_need_not_be_given_is_optional_and_every_widget_is_required(made):
    assert list(made["input"]["optional"]) == ["mask", "limit", "numbers", "anything"]
    assert made["input_order"] == {section: list(found) for section, found in made["input"].items()}


def test_sockets(made):
    assert kind(made, "picture") == "PICTURE"
    assert kind(made, "either") == "PICTURE,PHOTO"
    assert kind(made, "anything") == "*"
    assert options(made, "picture")["tooltip"] == "Some pixels."
    assert options(made, "either")["tooltip"] == "One of two."
    assert kind(definition(Pass.spec, lambda entry: None), "one") == "*"


def test_what_has_no_field_to_fill_in_is_a_socket(made):
    assert made["input"]["optional"]["limit"][0] == "INT"
    assert options(made, "limit")["forceInput"] is True  # a number there would not mean "none"
    assert options(made, "numbers")["forceInput"] is True
    assert not any("forceInput" in spec[1] for spec in made["input"]["required"].values())


def test_numbers_always_have_bounds_and_a_step(made):
    assert options(made, "seed") == {"default": 0, "min": 0, "max": 2**64 - 1, "step": 1, "control_after_generate": True}
    assert options(made, "count") == {"default": 3, "min": -(2**53 - 1), "max": 2**53 - 1, "step": 1}
    assert options(made, "share") == {"default": 0.5, "min": 0.1, "max": 1.0, "step": 0.1}  # 0 itself is excluded
    assert isinstance(options(made, "share")["max"], float)
    assert math.isfinite(options(made, "late")["max"])


def test_a_number_without_a_default_starts_at_one_that_is_accepted(made):
    assert options(made, "side") == {"default": 8, "min": 8, "max": 96, "step": 8}


def test_a_seed_changes_by_itself_only_if_it_is_declared_so():
    assert options(definition(Pass.spec, lambda entry: None), "noise_seed")["control_after_generate"] is False


def test_other_widgets(made):
    assert options(made, "text") == {"multiline": True, "default": "a"}
    assert (kind(made, "on"), options(made, "on")) == ("BOOLEAN", {"default": False})
    assert (kind(made, "mode"), options(made, "mode")) == (["x", "y"], {"default": "y"})
    assert options(made, "late")["lazy"] is True


def test_a_file_offers_what_ships_and_what_is_there_and_an_upload(made):
    assert kind(made, "file") == ["own.png", "mine.png"]
    assert options(made, "file") == {"image_upload": True, "image_folder": "input"}


def test_widgets_stand_in_the_order_of_the_declared_inputs(made):
    wanted = ["seed", "file", "count", "share", "side", "text", "on", "mode", "late"]
    assert [entry.name for entry in fields(made, []) if entry.widget] == wanted


def test_a_saved_list_of_values_comes_back_to_the_inputs_it_was_made_of(made):
    # the editor keeps a value for each widget, one more after a seed for what happens to it, and one for the upload button
    saved = [7, "randomize", "mine.png", 5, 0.25, 16, "two\nlines", True, "x", 2.5, "image"]
    restored = {entry.name: entry.value for entry in fields(made, saved) if entry.widget}
    assert restored == {
        "seed": 7, "file": "mine.png", "count": 5, "share": 0.25, "side": 16, "text": "two\nlines", "on": True, "mode": "x", "late": 2.5,
    }  # fmt: skip


bound = st.one_of(st.none(), st.integers(-1000, 1000))


@given(
    low=bound, high=bound, of=st.one_of(st.none(), st.integers(1, 40)), step=st.one_of(st.none(), st.integers(1, 40)), share=st.floats(0, 1)
)
def test_whole_numbers_that_the_editor_can_show_are_accepted(low, high, of, step, share):
    spec = InputSpec(name="n", types=("INT",), minimum=low, maximum=high, multiple_of=of, step=step)
    shown = options(definition(NodeSpec(type="N", inputs=(spec,)), lambda entry: None), "n")
    if shown["min"] > shown["max"]:
        step = of or 1  # the declaration leaves no value at all
        assert low is not None
        assert high is not None
        assert not any(value % step == 0 for value in range(low, high + 1))
        return
    # how the editor rounds what is typed: whole steps from the lower bound (its remainder keeps the sign), within the bounds
    typed = shown["min"] + round(share * (shown["max"] - shown["min"]))
    offset = math.fmod(shown["min"], shown["step"])
    rounded = round((typed - offset) / shown["step"]) * shown["step"] + int(offset)
    value = min(max(rounded, shown["min"]), shown["max"])
    assert spec.refuse(value) is None
    assert spec.refuse(shown.get("default", max(shown["min"], 0))) is None


@given(
    low=st.floats(-1e6, 1e6),
    width=st.floats(1e-3, 1e6),
    above=st.booleans(),
    below=st.booleans(),
    step=st.one_of(st.none(), st.floats(1e-4, 10)),
    share=st.one_of(st.none(), st.floats(0.01, 0.99)),
)
def test_fractions_at_both_ends_of_the_editors_range_are_accepted(low, width, above, below, step, share):
    default = None if share is None else low + share * width
    rest = {"step": step, "required": share is None, "default": default}
    spec = InputSpec(name="x", types=("FLOAT",), minimum=low, maximum=low + width, above=above, below=below, **rest)
    shown = options(definition(NodeSpec(type="N", inputs=(spec,)), lambda entry: None), "x")
    assert low <= shown["min"] <= shown["max"] <= low + width
    for value in (shown["min"], shown["max"], shown.get("default", shown["min"])):
        assert spec.refuse(value) is None


def catalogue() -> dict[str, NodeSpec]:
    return dict(Catalogue.of(Registry.of(Everything, Pass, Save)).specs)


def test_definitions_are_kept_until_a_folder_changes(tmp_path):
    (tmp_path / "input").mkdir()
    known = Definitions(catalogue(), folders := Folders(tmp_path))
    before, (text, tag) = known(), known.encoded()
    assert before == definitions(catalogue(), folders)
    assert json.loads(text) == before
    assert known() is before
    assert known.encoded() == (text, tag)
    (tmp_path / "input" / "new.png").touch()
    os.utime(tmp_path / "input")
    after = known()
    assert after["Everything"]["input"]["required"]["file"][0] == ["own.png", "new.png"]
    assert known.encoded()[1] != tag
    (tmp_path / "input" / "new.png").unlink()
    assert known.encoded() == (text, tag)


@pytest.mark.parametrize(
    ("package", "module", "wanted"),
    [("core", "nodes.sample", "nodes.sample"), ("", "", "nodes"), ("mine", "mine.things", "custom_nodes.mine")],
)
def test_the_editor_tells_its_own_nodes_from_those_of_an_extension(package, module, wanted):
    assert definition(NodeSpec(type="N", package=package, module=module), lambda entry: None)["python_module"] == wanted
