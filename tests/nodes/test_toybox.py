import pytest
import torch

from diffusion.values import Image
from graph_engine.errors import NodeError
from nodes import toybox as toybox_nodes
from nodes.toybox import KNOWN, AttributeProbe, ToyboxScene
from toybox.captions import caption
from toybox.scenes import Background, Obj, Scene, render, sample

STAR = {"objects": "one", "shape": "star", "color": "red", "size": "large", "style": "flat", "position": "left"}
GROUND = {"background_color": "blue", "texture": "striped"}


def scene(ctx, **inputs) -> ToyboxScene.Out:
    return ToyboxScene(**inputs).run(ctx)


def test_explicit_attributes_draw_exactly_that_scene(ctx):
    out = scene(ctx, seed=5, **STAR, **GROUND)
    wanted = Scene((Obj("star", "red", "large", "flat", "left"),), Background("blue", "striped"), seed=5)
    images, masks = render([wanted])
    assert torch.equal(out.image.pixels, images)
    assert torch.equal(out.mask.values[0], masks[0, 0])
    assert out.caption == caption(wanted).text


def test_a_seed_is_a_scene(ctx):
    assert torch.equal(scene(ctx, seed=3).image.pixels, scene(ctx, seed=3).image.pixels)
    assert not torch.equal(scene(ctx, seed=3).image.pixels, scene(ctx, seed=4).image.pixels)


def test_without_a_change_the_target_is_the_scene(ctx):
    out = scene(ctx, seed=3)
    assert torch.equal(out.image.pixels, out.target_image.pixels)
    assert out.caption == out.target_caption
    assert not out.edit_mask.values.any()


@pytest.mark.parametrize("change", KNOWN)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_change_shows_inside_the_edit_mask_only(ctx, change, seed):
    out = scene(ctx, seed=seed, objects="two", object="second", change=change)
    moved = (out.image.pixels - out.target_image.pixels).abs().amax(-1) > 0
    assert moved.any()
    assert not (moved & (out.edit_mask.values == 0)).any()
    if change not in ("style", "finish", "size"):  # an unnamed size is left out of captions, a look has no words
        assert out.caption != out.target_caption


def test_a_named_change_is_that_change(ctx):
    out = scene(ctx, seed=5, **STAR, **GROUND, change="color", change_to="green")
    wanted = scene(ctx, seed=5, **STAR | {"color": "green"}, **GROUND)
    assert torch.equal(out.target_image.pixels, wanted.image.pixels)
    assert out.target_caption == wanted.caption
    assert torch.equal(out.edit_mask.values, out.mask.values)


def test_a_moved_object_is_edited_at_both_places(ctx):
    out = scene(ctx, seed=5, **STAR, **GROUND, change="position", change_to="right")
    area = out.edit_mask.values[0]
    assert area[64, 31] == 1
    assert area[64, 97] == 1


def test_asking_about_the_second_object_changes_no_scene_that_has_one(ctx):
    seen = set()
    for seed in range(12):
        first, second = (scene(ctx, seed=seed, object=which) for which in ("first", "second"))
        had_two = len(sample(seed).objects) == 2
        assert torch.equal(first.image.pixels, second.image.pixels) == had_two
        assert second.mask.values.any()
        seen.add(had_two)
    assert seen == {True, False}


def test_the_second_object_has_attributes_of_its_own(ctx):
    out = scene(ctx, seed=5, shape="star", position="left", shape_2="circle", color_2="green", position_2="right", object="second")
    assert "star" in out.caption
    assert "green circle" in out.caption
    assert out.mask.values[0, 64, 97] == 1


def test_what_cannot_be_drawn_is_refused(ctx):
    with pytest.raises(NodeError, match="background_color: another one than the object's is wanted, red given for both"):
        scene(ctx, **STAR, background_color="red")
    with pytest.raises(NodeError, match="change_to: blue is the color of an object and of its background then"):
        scene(ctx, **STAR, **GROUND, change="color", change_to="blue")
    with pytest.raises(NodeError, match="objects: two is wanted where attributes of a second object are given"):
        scene(ctx, **STAR, shape_2="circle")
    assert [field for field, _ in ToyboxScene.check({"change": "color", "change_to": "mauve"})] == ["change_to"]
    assert [field for field, _ in ToyboxScene.check({"objects": "one", "object": "second"})] == ["object"]
    assert not list(ToyboxScene.check({"change": "color", "change_to": "green"}))


class Everywhere:
    """Stands for a trained probe, whose weights need not be here: reads one fixed scene into every picture."""

    @classmethod
    def load(cls) -> "Everywhere":
        return cls()

    def read(self, images: torch.Tensor):
        from toybox.reading import Guess, ObjectReading, Reading

        obj = ObjectReading(*(Guess(label, 0.999) for label in ("star", "red", "large", "flat", "left")))
        other = ObjectReading(*(Guess(label, 0.6) for label in ("ring", "green", "small", "flat", "right")))
        picture = (Guess("2", 1.0), Guess("blue", 0.9), Guess("plain", 1.0), Guess("none", 1.0))
        return [Reading((obj, other), *picture) for _ in images]


def test_the_probe_gives_a_list_with_one_entry_a_picture(ctx, monkeypatch):
    monkeypatch.setattr(toybox_nodes, "Probe", Everywhere)
    out = AttributeProbe(image=Image(torch.zeros(2, 128, 128, 3))).run(ctx)
    assert out.objects == [2, 2]
    assert out.shape == ["star, ring"] * 2
    assert out.background_color == ["blue", "blue"]
    assert '"label": "star"' in out.readings[1]
    wanted = "large flat red star left and small (0.60) flat (0.60) green (0.60) ring (0.60) right (0.60) on blue (0.90) plain background"
    assert ctx.ui["text"] == [wanted] * 2


def test_missing_weights_are_named(ctx, monkeypatch):
    class Missing:
        @classmethod
        def load(cls) -> None:
            raise FileNotFoundError("no probe in weights/probe")

    monkeypatch.setattr(toybox_nodes, "Probe", Missing)
    with pytest.raises(NodeError, match="no probe in weights/probe"):
        AttributeProbe(image=Image(torch.zeros(1, 128, 128, 3))).run(ctx)
