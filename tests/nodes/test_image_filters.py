from itertools import pairwise

import pytest
import torch

from diffusion.values import Image
from nodes.image import ImageScaleToTotalPixels
from nodes.image_filters import ImageBlur, ImageQuantize, ImageSharpen, bayer, gaussian


def noise(*shape: int) -> Image:
    return Image(torch.rand(*shape, generator=torch.Generator().manual_seed(0)))


def test_the_gaussian_is_one_of_the_share_of_its_radius():
    for radius, sigma in ((1, 1.0), (3, 0.5), (10, 0.3)):
        kernel = gaussian(radius, sigma)
        assert kernel.shape == (2 * radius + 1,) * 2
        assert kernel.sum() == pytest.approx(1)
        ratio = float(kernel[radius, radius] / kernel[radius, 0])
        assert ratio == pytest.approx(float(torch.tensor(1 / (2 * sigma**2)).exp()), rel=1e-4)


def test_a_point_blurs_into_the_kernel_and_a_flat_picture_stays(ctx):
    point = torch.zeros(1, 9, 9, 3)
    point[0, 4, 4] = 1
    out = ImageBlur(image=Image(point), blur_radius=2, sigma=0.7).run(ctx).pixels
    torch.testing.assert_close(out[0, 2:7, 2:7, 1], gaussian(2, 0.7))
    flat = Image(torch.full((2, 6, 7, 4), 0.3))
    torch.testing.assert_close(ImageBlur(image=flat, blur_radius=5).run(ctx).pixels, flat.pixels)
    torch.testing.assert_close(ImageSharpen(image=flat, sharpen_radius=5).run(ctx).pixels, flat.pixels)


def test_sharpening_adds_ten_times_alpha_of_what_blurring_took_away(ctx):
    image = Image(noise(1, 12, 12, 3).pixels * 0.2 + 0.4)
    blurred = ImageBlur(image=image, blur_radius=2, sigma=0.5).run(ctx).pixels
    sharp = ImageSharpen(image=image, sharpen_radius=2, sigma=0.5, alpha=0.1).run(ctx).pixels
    torch.testing.assert_close(sharp, image.pixels + (image.pixels - blurred))
    assert ImageSharpen(image=noise(1, 9, 9, 3), alpha=5.0).run(ctx).pixels.aminmax() == (0, 1)


def test_a_radius_as_large_as_the_picture_is_refused(ctx):
    with pytest.raises(ValueError, match="radius: less than the picture's shorter side of 4 is wanted, 4 given"):
        ImageBlur(image=noise(1, 4, 9, 3), blur_radius=4).run(ctx)


@pytest.mark.parametrize("dither", ["none", "floyd-steinberg", "bayer-2", "bayer-4", "bayer-8", "bayer-16"])
@pytest.mark.parametrize("colors", [1, 4, 16])
def test_no_more_colours_are_left_than_asked_for(ctx, dither, colors):
    out = ImageQuantize(image=noise(2, 20, 24, 3), colors=colors, dither=dither).run(ctx).pixels
    assert out.shape == (2, 20, 24, 3)
    for picture in out:
        assert 1 <= len(picture.reshape(-1, 3).unique(dim=0)) <= colors


def test_few_colours_keep_alpha(ctx):
    image = noise(1, 8, 8, 4)
    out = ImageQuantize(image=image, colors=2).run(ctx).pixels
    assert torch.equal(out[..., 3], image.pixels[..., 3])
    assert torch.equal(out[..., :3], ImageQuantize(image=Image(image.pixels[..., :3]), colors=2).run(ctx).pixels)


def test_dithering_brings_the_mean_of_a_ramp_nearer(ctx):
    ramp = Image(torch.linspace(0, 1, 64).expand(64, 64)[None, ..., None].repeat(1, 1, 1, 3))

    def off(dither: str) -> float:
        out = ImageQuantize(image=ramp, colors=2, dither=dither).run(ctx).pixels
        return float((out[..., 0].mean(1) - ramp.pixels[:, 0, :, 0]).abs().mean())

    assert off("floyd-steinberg") < 0.7 * off("none")


@pytest.mark.parametrize("order", [2, 4, 8, 16])
def test_bayers_thresholds_are_all_different_and_even(order):
    found = sorted(bayer(order).flatten())
    assert len(set(found)) == order**2
    assert found[0] == pytest.approx(-0.5 + 0.5 / order**2)
    assert all(b - a == pytest.approx(1 / order**2) for a, b in pairwise(found))


def test_total_pixels_keep_the_aspect_ratio_and_round_to_steps(ctx):
    image = noise(1, 100, 200, 3)
    out = ImageScaleToTotalPixels(image=image, upscale_method="area", megapixels=0.01).run(ctx).pixels
    assert out.shape[1:3] == (round(100 * (10485.76 / 20000) ** 0.5), round(200 * (10485.76 / 20000) ** 0.5))
    out = ImageScaleToTotalPixels(image=image, upscale_method="area", megapixels=0.01, resolution_steps=64).run(ctx).pixels
    assert out.shape[1:3] == (64, 128)
