"""The toybox world as nodes: scenes with ground truth, and the probe that says what a picture shows."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from diffusion.values import Image, Mask
from graph_engine.errors import NodeError
from graph_engine.node import Node
from nodes.params import Seed
from toybox.captions import caption
from toybox.probe import Probe
from toybox.reading import ObjectReading, Reading
from toybox.scenes import (
    COLORS,
    FINISHES,
    HELD_OUT_SHAPES,
    HELD_OUT_TEXTURES,
    POSITIONS,
    SHAPES,
    SIZES,
    STYLES,
    SUBJECTS,
    TEXTURES,
    Scene,
    render,
    sample,
)

if TYPE_CHECKING:
    from graph_engine.context import Context

OF_OBJECT = {
    "shape": (*SHAPES, *HELD_OUT_SHAPES, *SUBJECTS),
    "color": tuple(COLORS),
    "size": SIZES,
    "style": STYLES,
    "position": POSITIONS,
}
OF_PICTURE = {"background_color": tuple(COLORS), "texture": (*TEXTURES, *HELD_OUT_TEXTURES), "finish": FINISHES}
COMMON = {"shape": SHAPES, "texture": TEXTURES}  # what chance picks from; the rest must be asked for by name
KNOWN = OF_OBJECT | OF_PICTURE

if TYPE_CHECKING:  # a checker cannot follow choices that are computed
    Shape = str
    Color = str
    Size = str
    Style = str
    Position = str
    Texture = str
    Finish = str
    Change = str
else:
    Shape, Color, Size, Style, Position = (Literal["any", *values] for values in OF_OBJECT.values())
    Texture, Finish, Change = Literal["any", *OF_PICTURE["texture"]], Literal[FINISHES], Literal["none", *KNOWN]
FIRST, SECOND = (Field(description=f"Of the {which} object; any: by the seed.") for which in ("first", "second"))


def others(scene: Scene, attribute: str, which: int, value: str, seed: int) -> Scene:
    """The scene with one attribute changed: to `value`, or if that is "any" to one that the seed picks and that keeps things apart.

    Raises ValueError where an object would take the background's colour.
    """
    changed = scene.replace(which, **{attribute: value}) if value != "any" else _by_chance(scene, attribute, which, seed)
    if any(obj.color == changed.background.color and obj.shape not in SUBJECTS for obj in changed.objects):
        raise ValueError(f"change_to: {value} is the color of an object and of its background then")
    return changed


def _by_chance(scene: Scene, attribute: str, which: int, seed: int) -> Scene:
    now = getattr(scene.objects[which], attribute) if attribute in OF_OBJECT else _of_picture(scene, attribute)
    values = [value for value in COMMON.get(attribute, KNOWN[attribute]) if value != now]
    if attribute in ("color", "background_color"):
        taken = {scene.background.color, *(obj.color for obj in scene.objects)}
        values = [value for value in values if value not in taken]
    random.Random(f"toybox change {seed}").shuffle(values)
    scenes = [scene.replace(which, **{attribute: value}) for value in values]
    return next((found for found in scenes if _apart(found)), scenes[0])


def _of_picture(scene: Scene, attribute: str) -> str:
    return {"background_color": scene.background.color, "texture": scene.background.texture, "finish": scene.finish}[attribute]


def _apart(scene: Scene) -> bool:
    """Whether the second object covers nothing of the first."""
    if len(scene.objects) == 1:
        return True
    masks = render([scene, Scene(scene.objects[:1], scene.background, scene.seed, scene.finish)])[1]
    return bool(torch.equal(masks[0, 0], masks[1, 0]))


def edited_area(before: Tensor, after: Tensor, attribute: str, which: int) -> Tensor:
    """Where a change may show, [1, h, w], from the objects' coverage [2, h, w] before and after: the object's, or the ground's."""
    if attribute in OF_OBJECT:
        return torch.maximum(before[which], after[which])[None]
    if attribute == "finish":
        return torch.ones_like(before[:1])
    return 1 - before.amax(0, keepdim=True)


class ToyboxScene(Node, category="toybox", title="Toybox Scene", aliases=("test picture", "ground truth")):
    """Draw a scene of the toybox world, 128 × 128, with its caption and mask, and if wanted the very same scene but for one change."""

    seed: Seed = 0
    objects: Annotated[Literal["any", "one", "two"], Field(description="How many objects; any: by the seed.")] = "any"
    shape: Annotated[Shape, FIRST] = "any"
    color: Annotated[Color, FIRST] = "any"
    size: Annotated[Size, FIRST] = "any"
    style: Annotated[Style, FIRST] = "any"
    position: Annotated[Position, FIRST] = "any"
    shape_2: Annotated[Shape, SECOND] = "any"
    color_2: Annotated[Color, SECOND] = "any"
    size_2: Annotated[Size, SECOND] = "any"
    style_2: Annotated[Style, SECOND] = "any"
    position_2: Annotated[Position, SECOND] = "any"
    background_color: Annotated[Color, Field(description="any: by the seed.")] = "any"
    texture: Annotated[Texture, Field(description="Of the background; any: by the seed.")] = "any"
    finish: Annotated[Finish, Field(description="A look of the whole picture.")] = "none"
    object: Annotated[Literal["first", "second"], Field(description="The object that the mask shows and the change is about.")] = "first"
    change: Annotated[Change, Field(description="The attribute that differs in the target picture.")] = "none"
    change_to: Annotated[str, Field(description="Its new value; any: another one, by the seed.")] = "any"

    class Out(NamedTuple):
        image: Image
        mask: Annotated[Mask, Field(description="What of the picture the object covers.")]
        caption: str
        target_image: Annotated[Image, Field(description="The changed scene: what a perfect edit would give.")]
        target_caption: str
        edit_mask: Annotated[Mask, Field(description="Where the change may show; empty without one.")]

    @classmethod
    def check(cls, inputs: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        change, value = inputs.get("change", "none"), inputs.get("change_to", "any")
        if isinstance(change, str) and change in KNOWN and isinstance(value, str) and value not in ("any", *KNOWN[change]):
            yield "change_to", f"{value!r} is no {change}; any, {', '.join(KNOWN[change])} are"
        if inputs.get("objects") == "one" and inputs.get("object") == "second":
            yield "object", "the second object is asked for in a scene of one"

    def run(self, ctx: Context) -> Out:
        which = ("first", "second").index(self.object)
        try:
            scene = self._scene()
            if which >= len(scene.objects):
                raise ValueError(f"object: the scene of seed {self.seed} has one object, set objects to two for a second")
            target = scene if self.change == "none" else others(scene, self.change, which, self.change_to, self.seed)
        except ValueError as problem:
            raise NodeError(str(problem)) from problem
        images, masks = render([scene, target])
        area = torch.zeros_like(masks[0, :1]) if self.change == "none" else edited_area(masks[0], masks[1], self.change, which)
        return self.Out(
            image=Image(images[:1]),
            mask=Mask(masks[0, which][None]),
            caption=caption(scene).text,
            target_image=Image(images[1:]),
            target_caption=caption(target).text,
            edit_mask=Mask(area),
        )

    def _scene(self) -> Scene:
        pairs = {name: tuple(_chosen(getattr(self, name + end)) for end in ("", "_2")) for name in OF_OBJECT}
        second = any(pair[1] for pair in pairs.values())
        if second and self.objects == "one":
            raise ValueError("objects: two is wanted where attributes of a second object are given, one given")
        count = {"any": 2 if second else None, "one": 1, "two": 2}[self.objects]
        ground = {"background_color": _chosen(self.background_color), "texture": _chosen(self.texture)}
        fixed = pairs | {name: value for name, value in ground.items() if value}
        scene = sample(self.seed, count, finish=self.finish, **fixed)
        if self.objects == "any" and self.object == "second" and len(scene.objects) == 1:  # else the scene stays what it is without
            scene = sample(self.seed, 2, finish=self.finish, **fixed)
        for obj in scene.objects:
            if obj.color == scene.background.color and obj.shape not in SUBJECTS:
                raise ValueError(f"background_color: another one than the object's is wanted, {obj.color} given for both")
        return scene


def _chosen(value: str) -> str | None:
    return None if value == "any" else value


def described(reading: Reading) -> str:
    """A reading in words, each with its probability where that is below 0.995."""
    things = [" ".join(_sure(getattr(obj, name)) for name in ("size", "style", "color", "shape", "position")) for obj in reading.objects]
    ground = f"{_sure(reading.background_color)} {_sure(reading.texture)} background"
    finish = "" if reading.finish.label == "none" else f", {_sure(reading.finish)}"
    return f"{' and '.join(things) or 'nothing'} on {ground}{finish}"


def _sure(guess: Any) -> str:
    return guess.label if guess.probability >= 0.995 else f"{guess.label} ({guess.probability:.2f})"


class AttributeProbe(Node, category="toybox", title="Attribute Probe", output=True, aliases=("classifier", "judge")):
    """Say what the toybox probe sees in pictures. Every output is a list with one entry a picture; objects are joined by commas."""

    image: Image

    class Out(NamedTuple):
        objects: Annotated[list[int], Field(description="How many there are.")]
        shape: list[str]
        color: list[str]
        size: list[str]
        style: list[str]
        position: list[str]
        background_color: list[str]
        texture: list[str]
        finish: list[str]
        readings: Annotated[list[str], Field(description="Everything with probabilities, as JSON.")]

    def run(self, ctx: Context) -> Out:
        try:
            probe = Probe.load()
        except FileNotFoundError as problem:
            raise NodeError(str(problem)) from problem
        with torch.no_grad():
            readings = probe.read(self.image.pixels[..., :3].cpu())
        ctx.show(text=[described(reading) for reading in readings])
        return self.Out(
            objects=[len(reading.objects) for reading in readings],
            **{name: [_joined(reading.objects, name) for reading in readings] for name in OF_OBJECT},
            **{name: [getattr(reading, name).label for reading in readings] for name in OF_PICTURE},
            readings=[json.dumps(reading.as_dict()) for reading in readings],
        )


def _joined(objects: tuple[ObjectReading, ...], name: str) -> str:
    return ", ".join(getattr(obj, name).label for obj in objects)
