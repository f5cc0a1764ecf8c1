"""Laws of the picture world."""

import pytest
import torch

from toybox.scenes import (
    COLORS,
    HELD_OUT_SHAPES,
    HELD_OUT_TEXTURES,
    SHAPES,
    SUBJECTS,
    TEXTURES,
    Background,
    Obj,
    Scene,
    coarse_colors,
    composite,
    edges,
    render,
    sample,
    segments,
    strokes,
)

CHANGES = [
    {"color": "blue"},
    {"shape": "heart"},
    {"size": "large"},
    {"style": "outlined"},
    {"position": "bottom right"},
]


def scene_without(seed: int) -> Scene:
    """A pair that has none of the attributes that CHANGES bring."""
    small, flat, place = ("small", "small"), ("flat", "flat"), ("top left", "top right")
    return sample(seed, 2, color=("red", "green"), shape=("star", "square"), size=small, style=flat, position=place)


def test_render_gives_pictures_and_coverage() -> None:
    images, masks = render([sample(1, 1), sample(2, 2)])
    assert images.shape == (2, 128, 128, 3)
    assert masks.shape == (2, 2, 128, 128)
    assert images.dtype == masks.dtype == torch.float32
    assert images.min() >= 0
    assert images.max() <= 1
    assert masks.min() >= 0
    assert masks.max() <= 1
    assert masks[0, 1].sum() == 0
    assert (masks[1].sum((1, 2)) > 100).all()


def test_render_is_the_same_bits_alone_and_in_any_batch() -> None:
    scenes = [sample(seed) for seed in range(24)]
    scenes += [sample(1, 1, texture="zigzag"), sample(2, 1, shape="arrow"), sample(3, 1, finish="sepia wash")]
    images, masks = render(scenes)
    backwards, _ = render(scenes[::-1])
    assert torch.equal(images, backwards.flip(0))
    for n, scene in enumerate(scenes):
        image, mask = render([scene])
        assert torch.equal(image[0], images[n])
        assert torch.equal(mask[0], masks[n])


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: next(iter(c)))
def test_replace_changes_that_object_only(change: dict[str, str]) -> None:
    for seed in range(4):
        before = scene_without(seed)
        after = before.replace(object=0, **change)
        assert after.objects[1] == before.objects[1]
        assert after.background == before.background
        assert after.seed == before.seed
        images, masks = render([before, after])
        outside = masks[:, 0].amax(0) == 0
        assert torch.equal(images[0][outside], images[1][outside])
        assert not torch.equal(images[0], images[1])


def test_replacing_the_background_leaves_the_objects() -> None:
    before = sample(5, 2, background_color="white", color=("red", "green"))
    after = before.replace(background_color="blue", texture="striped")
    images, masks = render([before, after])
    inside = (masks[0] == 1).any(0)
    assert after.objects == before.objects
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(images[0][inside], images[1][inside])


@pytest.mark.parametrize("color", COLORS)
def test_masks_agree_with_the_picture(color: str) -> None:
    ground = "white" if color != "white" else "black"
    scene = Scene((Obj("square", color, "large"),), Background(ground), seed=3)
    image, mask = (x[0] for x in render([scene]))
    near = (image - torch.tensor(COLORS[color])).abs().amax(-1) < 0.04
    assert near[mask[0] == 1].all()
    assert not near[mask[0] == 0].any()


def test_sample_is_deterministic_and_draws_nothing_held_out() -> None:
    scenes = [sample(seed) for seed in range(600)]
    assert scenes == [sample(seed) for seed in range(600)]
    assert {o.shape for s in scenes for o in s.objects} == set(SHAPES)
    assert {s.background.texture for s in scenes} == set(TEXTURES)
    assert {s.finish for s in scenes} == {"none"}
    assert 0.5 < sum(len(s.objects) == 2 for s in scenes) / 600 < 0.6
    for scene in scenes:
        colors = [o.color for o in scene.objects] + [scene.background.color]
        assert len(set(colors)) == len(colors)


def test_two_sampled_objects_never_touch() -> None:
    _, masks = render([sample(seed, 2) for seed in range(100)])
    assert ((masks[:, 0] > 0) & (masks[:, 1] > 0)).sum() == 0
    assert (masks.sum((2, 3)) > 100).all()


def test_sample_keeps_what_is_fixed() -> None:
    scene = sample(7, 2, shape=("crescent", None), color="pink", background_color="blue", texture="zigzag", position=("left", "right"))
    assert scene.objects[0].shape == "crescent"
    assert scene.objects[0].color == "pink"
    assert scene.background == Background("blue", "zigzag")
    assert scene.relation == "left of"
    with pytest.raises(TypeError, match="colour"):
        sample(1, colour="red")


def test_relation_follows_the_longer_axis() -> None:
    def at(a: str, b: str) -> str | None:
        return Scene((Obj("star", "red", position=a), Obj("ring", "blue", position=b)), Background("white")).relation

    assert at("left", "top right") == "left of"
    assert at("right", "center") == "right of"
    assert at("top", "bottom left") == "above"
    assert at("bottom", "top") == "below"
    assert at("top left", "bottom right") is None


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'star'"):
        Obj("sstar", "red")
    with pytest.raises(ValueError, match="one or two"):
        Scene((), Background("red"))


@pytest.mark.parametrize("shape", SHAPES + HELD_OUT_SHAPES + SUBJECTS)
def test_every_shape_fills_its_place(shape: str) -> None:
    _, masks = render([Scene((Obj(shape, "red", "medium"),), Background("white"), seed=2)])
    rows, columns = (torch.nonzero(masks[0, 0].amax(dim) > 0.5).flatten() for dim in (1, 0))
    for line in (rows, columns):
        assert 26 <= line[-1] - line[0] + 1 <= 46
        assert 56 <= (line[0] + line[-1]) / 2 <= 72


@pytest.mark.parametrize("texture", TEXTURES + HELD_OUT_TEXTURES)
def test_every_texture_keeps_its_colour_in_the_majority_or_beside_its_tone(texture: str) -> None:
    image, _ = render([Scene((Obj("star", "red", "small"),), Background("blue", texture), seed=2)])
    deviation = image[0].std((0, 1)).amax()
    assert (deviation < 0.12) if texture == "plain" else (deviation > 0.02)


def test_finishes_change_the_look_of_everything() -> None:
    scene = sample(4, 1)
    images, _ = render([scene, scene.replace(finish="posterized"), scene.replace(finish="sepia wash")])
    assert set(images[1].unique().tolist()) <= {0.0, 0.5, 1.0}
    assert (images[2] - images[0]).abs().mean() > 0.05


def test_views_have_their_shapes() -> None:
    scenes = [sample(1, 1), sample(2, 2)]
    images, masks = render(scenes)
    assert torch.equal(edges(scenes), edges(images))
    assert set(edges(images).unique().tolist()) == {0.0, 1.0}
    assert segments(scenes).shape == images.shape
    assert torch.equal(segments(scenes).amax(-1) > 0, (masks > 0.5).any(1))
    assert coarse_colors(images).shape == (2, 8, 8, 3)
    assert strokes(scenes[1]).shape == (128, 128, 3)
    assert torch.equal(strokes(scenes[1]), strokes(scenes[1]))
    pasted, area = composite(scenes[0], scenes[1])
    assert torch.equal(pasted[area == 0], images[0][area == 0])
    assert torch.equal(pasted[area > 0], images[1][area > 0])
    assert area.sum() > masks[1, 0].sum()
