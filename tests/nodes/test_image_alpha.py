import pytest
import torch
from PIL import Image as Picture

from diffusion.values import Image, Mask
from nodes.image_alpha import MODES, JoinImageWithAlpha, PorterDuffImageComposite, SplitImageWithAlpha, composite
from nodes.image_batch import ImageBatch
from nodes.image_compose import ImageCompositeMasked
from nodes.mask import ImageToMask
from nodes.save_image import SaveImage
from nodes.vae import VAEEncode


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def laid(ctx, mode, a=0.0, b=0.0, size=8):
    """Source and destination with transparencies a and b."""
    source, destination = Image(noise(1, 1, size, size, 3)), Image(noise(2, 1, size, size, 3))
    masks = [Mask(torch.full((1, size, size), value)) for value in (a, b)]
    node = PorterDuffImageComposite(source=source, source_alpha=masks[0], destination=destination, destination_alpha=masks[1], mode=mode)
    return source.pixels, destination.pixels, node.run(ctx)


def test_split_and_join_undo_each_other_and_a_mask_is_transparency(ctx):
    image, mask = Image(noise(0, 2, 5, 6, 3)), Mask(noise(1, 2, 5, 6))
    joined = JoinImageWithAlpha(image=image, alpha=mask).run(ctx)
    assert joined.pixels.shape == (2, 5, 6, 4)
    torch.testing.assert_close(joined.pixels[..., 3], 1 - mask.values)
    back = SplitImageWithAlpha(image=joined).run(ctx)
    assert torch.equal(back.image.pixels, image.pixels)
    torch.testing.assert_close(back.mask.values, mask.values)
    assert SplitImageWithAlpha(image=image).run(ctx).mask.values.eq(0).all()
    torch.testing.assert_close(ImageToMask(image=joined, channel="alpha").run(ctx).values, 1 - mask.values)


def test_alpha_goes_into_the_file_and_not_into_the_latent(ctx, vae):
    image = Image(noise(0, 1, 16, 16, 3))
    joined = JoinImageWithAlpha(image=image, alpha=Mask(torch.full((1, 16, 16), 0.25))).run(ctx)
    SaveImage(images=joined).run(ctx)
    with Picture.open(next((ctx.folders.base / "output").glob("*.png"))) as picture:
        assert picture.mode == "RGBA"
        assert picture.getpixel((0, 0))[3] == int(0.75 * 255)
    assert torch.equal(VAEEncode(pixels=joined, vae=vae).run(ctx).x, VAEEncode(pixels=image, vae=vae).run(ctx).x)


def test_one_with_and_one_without_alpha_meet(ctx):
    plain, clear = Image(noise(0, 1, 4, 4, 3)), Image(noise(1, 1, 4, 4, 4))
    both = ImageBatch(image1=plain, image2=clear).run(ctx).pixels
    assert torch.equal(both[0], torch.cat([plain.pixels, torch.ones(1, 4, 4, 1)], -1)[0])
    assert torch.equal(both[1], clear.pixels[0])
    assert ImageCompositeMasked(destination=plain, source=clear).run(ctx).pixels.shape == (1, 4, 4, 3)
    pasted = ImageCompositeMasked(destination=clear, source=plain).run(ctx).pixels
    assert torch.equal(pasted, torch.cat([plain.pixels, torch.ones(1, 4, 4, 1)], -1))


@pytest.mark.parametrize("mode", MODES)
def test_opaque_pictures_follow_the_tables(ctx, mode):
    s, d, out = laid(ctx, mode)
    dark = torch.where(2 * d < 1, 2 * s * d, 1 - 2 * (1 - s) * (1 - d))
    nothing = torch.zeros_like(s)
    wanted = {
        "SRC": s, "SRC_OVER": s, "SRC_IN": s, "SRC_ATOP": s, "DST": d, "DST_OVER": d, "DST_IN": d, "DST_ATOP": d,
        "CLEAR": nothing, "SRC_OUT": nothing, "DST_OUT": nothing, "XOR": nothing,
        "ADD": (s + d).clamp(max=1), "MULTIPLY": s * d, "SCREEN": 1 - (1 - s) * (1 - d), "OVERLAY": dark,
        "DARKEN": torch.minimum(s, d), "LIGHTEN": torch.maximum(s, d),
    }[mode]  # fmt: skip
    torch.testing.assert_close(out.image.pixels, wanted)
    gone = mode in ("CLEAR", "SRC_OUT", "DST_OUT", "XOR")
    assert out.mask.values.eq(1 if gone else 0).all()


def test_the_destination_says_how_large_and_the_shortest_batch_how_many(ctx):
    source, clear = Image(torch.ones(2, 4, 12, 3)), Mask(torch.zeros(2, 6, 6))
    destination, below = Image(torch.zeros(3, 8, 8, 3)), Mask(torch.zeros(4, 3, 3))
    node = PorterDuffImageComposite(source=source, source_alpha=clear, destination=destination, destination_alpha=below, mode="SRC_OVER")
    out = node.run(ctx)
    torch.testing.assert_close(out.image.pixels, torch.ones(2, 8, 8, 3))
    torch.testing.assert_close(out.mask.values, torch.zeros(2, 8, 8))


def test_a_source_of_another_size_is_cut_around_its_centre(ctx):
    left = torch.zeros(1, 4, 12, 3)
    left[:, :, :4] = 1  # all of it is trimmed away
    opaque = Mask(torch.zeros(1, 4, 4))
    black = Image(torch.zeros(1, 8, 8, 3))
    node = PorterDuffImageComposite(source=Image(left), source_alpha=opaque, destination=black, destination_alpha=opaque, mode="SRC")
    assert not node.run(ctx).image.pixels.any()


def test_half_transparent_over_opaque_is_a_mixture(ctx):
    s, d, out = laid(ctx, "SRC_OVER", a=0.25)
    torch.testing.assert_close(out.image.pixels, 0.75 * s + 0.25 * d)
    assert out.mask.values.abs().max() < 1e-6


@pytest.mark.parametrize("mode", sorted({*MODES} - {"OVERLAY"}))  # which alone asks which of the two is dark
def test_source_and_destination_modes_mirror_each_other(mode):
    other = mode.replace("SRC", "?").replace("DST", "SRC").replace("?", "DST")
    a, b = noise(3, 1, 4, 4, 1), noise(4, 1, 4, 4, 1)
    s, d = noise(1, 1, 4, 4, 3) * a, noise(2, 1, 4, 4, 3) * b
    for one, two in zip(composite(s, a, d, b, mode), composite(d, b, s, a, other), strict=True):
        torch.testing.assert_close(one, two)
