"""Pasting by alpha: what is not touched stays, what is opaque arrives, and turning and scaling go about the right place."""

import pytest
import torch

from diffusion.values import Image, Mask
from nodes.compose_image import ComposeImage, encoded, linear


def picture(seed, *shape):
    return Image(torch.rand(*shape, generator=torch.Generator().manual_seed(seed)))


@pytest.fixture
def background():
    return picture(0, 1, 16, 20, 3)


def test_a_plain_paste_is_exact(ctx, background):
    over = picture(1, 1, 6, 4, 3)
    out = ComposeImage(background=background, foreground=over, x=5, y=7).run(ctx)
    want = background.pixels.clone()
    want[:, 7:13, 5:9] = over.pixels
    assert torch.equal(out.image.pixels, want)
    assert out.mask.values.sum() == 24


@pytest.mark.parametrize(("x", "y"), [(-3, -2), (18, 14), (-50, 0), (0, 99)])
def test_what_sticks_out_is_cut_off(ctx, background, x, y):
    over = picture(1, 1, 6, 4, 3)
    out = ComposeImage(background=background, foreground=over, x=x, y=y).run(ctx)
    inside = torch.zeros(16, 20)
    inside[max(y, 0) : max(y + 6, 0), max(x, 0) : max(x + 4, 0)] = 1
    assert torch.equal(out.mask.values[0], inside)
    assert torch.equal(out.image.pixels[0][inside == 0], background.pixels[0][inside == 0])


def test_alpha_and_mask_multiply_and_are_straight(ctx, background):
    color = torch.tensor([1.0, 0.5, 0.0])
    rgba = Image(torch.cat([color.expand(1, 4, 4, 3), torch.full((1, 4, 4, 1), 0.5)], -1))
    out = ComposeImage(background=background, foreground=rgba, mask=Mask(torch.full((1, 4, 4), 0.5)), x=2, y=3, opacity=0.5).run(ctx)
    assert torch.allclose(out.mask.values[0, 3:7, 2:6], torch.tensor(0.125))
    assert torch.allclose(out.image.pixels[0, 3:7, 2:6], 0.125 * color + 0.875 * background.pixels[0, 3:7, 2:6], atol=1e-6)


def test_a_mask_of_zero_or_no_opacity_leaves_the_background_bit_for_bit(ctx, background):
    over = picture(1, 1, 6, 4, 3)
    for how in ({"mask": Mask(torch.zeros(1, 6, 4))}, {"opacity": 0.0}):
        for light in (False, True):
            out = ComposeImage(background=background, foreground=over, rotation=30.0, linear_light=light, **how).run(ctx)
            assert torch.equal(out.image.pixels, background.pixels)


def test_a_quarter_turn_is_clockwise_about_the_middle(ctx):
    over = torch.zeros(1, 5, 5, 3)
    over[:, 0, 2] = 1  # top
    ground = Image(torch.zeros(1, 9, 9, 3))
    out = ComposeImage(background=ground, foreground=Image(over), x=2, y=2, rotation=90.0).run(ctx).image.pixels[0, ..., 0]
    assert out[4, 6] == pytest.approx(1, abs=1e-4)  # right
    assert out.sum() == pytest.approx(1, abs=1e-3)
    full = ComposeImage(background=ground, foreground=Image(over), x=2, y=2, rotation=360.0).run(ctx).image.pixels[0, ..., 0]
    assert full[2, 4] == 1


def test_turning_keeps_the_area_and_the_centre(ctx):
    ground = Image(torch.zeros(1, 40, 40, 3))
    for degrees in (15.0, 45.0, 200.0):
        mask = (
            ComposeImage(background=ground, foreground=Image(torch.ones(1, 10, 16, 3)), x=10, y=12, rotation=degrees)
            .run(ctx)
            .mask.values[0]
        )
        at = torch.arange(40) + 0.5
        assert mask.sum() == pytest.approx(160, rel=0.03)
        assert (mask.sum(0) * at).sum() / mask.sum() == pytest.approx(18, abs=0.05)
        assert (mask.sum(1) * at).sum() / mask.sum() == pytest.approx(17, abs=0.05)


def test_scale_is_of_the_sides(ctx):
    ground = Image(torch.zeros(1, 40, 40, 3))
    out = ComposeImage(background=ground, foreground=Image(torch.ones(1, 10, 8, 3)), x=4, y=4, scale=1.5).run(ctx)
    assert out.mask.values.sum() == 15 * 12
    assert torch.equal(out.image.pixels[0, ..., 0], out.mask.values[0])


def test_light_is_mixed_as_light(ctx):
    ground, over = Image(torch.zeros(1, 4, 4, 3)), Image(torch.ones(1, 4, 4, 3))
    half = ComposeImage(background=ground, foreground=over, opacity=0.5, linear_light=True).run(ctx).image.pixels
    assert half.mean().item() == pytest.approx(0.7354, abs=1e-4)  # half the light of white in sRGB
    x = torch.linspace(0, 1, 101)
    assert torch.allclose(encoded(linear(x)), x, atol=1e-6)


def test_one_foreground_serves_a_batch(ctx):
    out = ComposeImage(background=picture(0, 3, 8, 8, 3), foreground=picture(1, 1, 2, 2, 3)).run(ctx)
    assert out.image.pixels.shape == (3, 8, 8, 3)
    assert out.mask.values.shape == (3, 8, 8)
