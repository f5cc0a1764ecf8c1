import pytest
import torch

from diffusion.values import Image
from nodes.image import EmptyImage, ImageBlend, ImageCrop, ImageFlip, ImageInvert, ImageRotate, ImageScale, ImageScaleBy, modes


def noise(*shape: int) -> Image:
    return Image(torch.rand(*shape, generator=torch.Generator().manual_seed(0)))


def ramp(height: int, width: int) -> Image:
    """Red is the column, green the row."""
    columns = torch.arange(width).expand(height, width)
    rows = torch.arange(height)[:, None].expand(height, width)
    return Image(torch.stack([columns, rows, torch.zeros(height, width)], -1)[None] / 100)


@pytest.mark.parametrize(("width", "height", "wanted"), [(0, 0, (20, 30)), (10, 0, (7, 10)), (0, 10, (10, 15)), (9, 8, (8, 9))])
def test_zero_keeps_the_aspect_ratio(ctx, width, height, wanted):
    image = noise(1, 20, 30, 3)
    out = ImageScale(image=image, upscale_method="area", width=width, height=height).run(ctx)
    assert out.pixels.shape == (1, *wanted, 3)
    if width == height == 0:
        assert out is image


def test_centre_crop_trims_to_the_new_aspect_ratio_before_resizing(ctx):
    image = ramp(8, 16)
    out = ImageScale(image=image, upscale_method="nearest-exact", width=8, height=8, crop="center").run(ctx)
    assert torch.equal(out.pixels, image.pixels[:, :, 4:12])
    squeezed = ImageScale(image=image, upscale_method="nearest-exact", width=8, height=8).run(ctx)
    assert torch.equal(squeezed.pixels, image.pixels[:, :, 1::2])


@pytest.mark.parametrize("method", ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"])
def test_a_flat_picture_stays_flat(ctx, method):
    flat = Image(torch.full((2, 6, 6, 3), 0.4))
    out = ImageScale(image=flat, upscale_method=method, width=9, height=3).run(ctx).pixels
    assert out.shape == (2, 3, 9, 3)
    assert torch.allclose(out, torch.tensor(0.4), atol=1e-6)


def test_scale_by_rounds(ctx):
    out = ImageScaleBy(image=noise(1, 5, 7, 3), upscale_method="bilinear", scale_by=1.5).run(ctx)
    assert out.pixels.shape == (1, round(7.5), round(10.5), 3)


def test_inverting_twice_gives_the_picture(ctx):
    image = ramp(3, 4)
    once = ImageInvert(image=image).run(ctx)
    assert torch.equal(once.pixels, 1 - image.pixels)
    assert torch.allclose(ImageInvert(image=once).run(ctx).pixels, image.pixels)


def test_a_crop_ends_at_the_border(ctx):
    image = ramp(8, 8)
    assert torch.equal(ImageCrop(image=image, width=3, height=2, x=1, y=4).run(ctx).pixels, image.pixels[:, 4:6, 1:4])
    assert torch.equal(ImageCrop(image=image, width=9, height=9, x=6, y=99).run(ctx).pixels, image.pixels[:, 7:, 6:])


def test_flips_and_turns(ctx):
    image = ramp(3, 5)
    assert torch.equal(ImageFlip(image=image, flip_method="x-axis: vertically").run(ctx).pixels[0, 0], image.pixels[0, -1])
    assert torch.equal(ImageFlip(image=image, flip_method="y-axis: horizontally").run(ctx).pixels[0, :, 0], image.pixels[0, :, -1])
    turned = ImageRotate(image=image, rotation="90 degrees").run(ctx)
    assert torch.equal(turned.pixels[0, 0], image.pixels[0, :, 0].flip(0))  # clockwise: the left column, from below, is now on top
    for _ in range(3):
        turned = ImageRotate(image=turned, rotation="90 degrees").run(ctx)
    assert torch.equal(turned.pixels, image.pixels)
    assert torch.equal(ImageRotate(image=image, rotation="270 degrees").run(ctx).pixels, torch.rot90(image.pixels, -1, (2, 1)))


def test_an_empty_image_has_its_colour(ctx):
    out = EmptyImage(width=4, height=2, batch_size=3, color=0xFF8001).run(ctx).pixels
    assert out.shape == (3, 2, 4, 3)
    assert torch.allclose(out, torch.tensor([255.0, 128, 1]) / 255)


def test_blends_keep_to_their_formulas_and_their_range(ctx):
    a, b = noise(1, 6, 6, 3), ramp(6, 6)
    for mode in modes(a.pixels, b.pixels):
        nothing = ImageBlend(image1=a, image2=b, blend_factor=0.0, blend_mode=mode).run(ctx).pixels
        assert torch.allclose(nothing, a.pixels)
        full = ImageBlend(image1=a, image2=b, blend_factor=1.0, blend_mode=mode).run(ctx).pixels
        assert 0 <= full.min() <= full.max() <= 1
    white, black, grey = (Image(torch.full((1, 2, 2, 3), v)) for v in (1.0, 0.0, 0.5))

    def blended(x: Image, y: Image, mode: str) -> float:
        return ImageBlend(image1=x, image2=y, blend_factor=1.0, blend_mode=mode).run(ctx).pixels.mean().item()

    assert blended(grey, white, "multiply") == 0.5
    assert blended(grey, black, "screen") == 0.5
    assert blended(grey, white, "overlay") == 1
    assert blended(grey, grey, "soft_light") == 0.5
    assert blended(white, grey, "difference") == 0.5
    assert ImageBlend(image1=grey, image2=white, blend_factor=0.25).run(ctx).pixels.mean().item() == 0.625


def test_the_first_picture_says_whether_a_blend_has_alpha(ctx):
    plain, clear = noise(1, 4, 6, 3), noise(1, 4, 6, 4)
    assert torch.equal(ImageBlend(image1=plain, image2=clear, blend_factor=1.0).run(ctx).pixels, clear.pixels[..., :3])
    out = ImageBlend(image1=clear, image2=plain, blend_factor=1.0).run(ctx).pixels
    assert torch.equal(out, torch.cat([plain.pixels, torch.ones(1, 4, 6, 1)], -1))


def test_blending_fits_the_second_picture_and_refuses_odd_batches(ctx):
    a = noise(2, 4, 6, 3)
    assert ImageBlend(image1=a, image2=noise(1, 9, 9, 3)).run(ctx).pixels.shape == a.pixels.shape
    with pytest.raises(ValueError, match=r"image2: a batch of 1 or 2 is wanted as in image1, 3 given"):
        ImageBlend(image1=a, image2=noise(3, 4, 6, 3)).run(ctx)
