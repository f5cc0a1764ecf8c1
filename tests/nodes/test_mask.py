import numpy as np
import pytest
import torch
from scipy import ndimage

from diffusion.values import Image, Mask
from nodes.mask import CropMask, FeatherMask, GrowMask, ImageColorToMask, ImageToMask, InvertMask, MaskToImage, SolidMask, ThresholdMask
from nodes.mask_composite import MaskComposite


def random_mask(*shape: int) -> Mask:
    return Mask(torch.rand(*shape, generator=torch.Generator().manual_seed(0)))


def test_a_mask_and_a_grey_picture_are_the_same(ctx):
    mask = random_mask(2, 3, 4)
    image = MaskToImage(mask=mask).run(ctx)
    assert image.pixels.shape == (2, 3, 4, 3)
    for channel in ("red", "green", "blue"):
        assert torch.equal(ImageToMask(image=image, channel=channel).run(ctx).values, mask.values)
    with pytest.raises(ValueError, match="channel: red, green or blue is wanted"):
        ImageToMask(image=image, channel="alpha").run(ctx)


def test_the_channel_is_the_one_asked_for(ctx):
    image = Image(torch.tensor([0.1, 0.2, 0.3]).expand(1, 2, 2, 3))
    assert ImageToMask(image=image, channel="green").run(ctx).values.mean().item() == pytest.approx(0.2)


def test_a_colour_is_found_exactly(ctx):
    pixels = torch.tensor([[[0xFF, 0x80, 0x01], [0xFF, 0x80, 0x02]]]) / 255
    assert ImageColorToMask(image=Image(pixels[None]), color=0xFF8001).run(ctx).values.tolist() == [[[1, 0]]]


@pytest.mark.parametrize("expand", [-3, -1, 0, 1, 2, 5])
@pytest.mark.parametrize("tapered", [True, False])
def test_growing_is_grey_dilation_and_shrinking_grey_erosion(ctx, expand, tapered):
    mask = random_mask(2, 9, 11)
    kernel = np.array([[not tapered, True, not tapered], [True, True, True], [not tapered, True, not tapered]])
    step = ndimage.grey_erosion if expand < 0 else ndimage.grey_dilation
    wanted = mask.values.numpy()
    for _ in range(abs(expand)):
        wanted = np.stack([step(one, footprint=kernel) for one in wanted])
    out = GrowMask(mask=mask, expand=expand, tapered_corners=tapered).run(ctx).values
    assert torch.equal(out, torch.from_numpy(wanted))


def test_growing_by_more_than_the_picture_fills_it(ctx):
    mask = Mask(torch.zeros(1, 5, 6))
    mask.values[0, 0, 0] = 1
    assert bool((GrowMask(mask=mask, expand=16384).run(ctx).values == 1).all())


def test_feathering_is_linear_from_the_near_sides(ctx):
    out = FeatherMask(mask=Mask(torch.ones(1, 6, 8)), left=4, top=2).run(ctx).values[0]
    assert torch.allclose(out[5], torch.tensor([0.25, 0.5, 0.75, 1, 1, 1, 1, 1]))
    assert torch.allclose(out[:, 7], torch.tensor([0.5, 1, 1, 1, 1, 1]))


def test_feathering_from_the_far_sides_starts_at_column_zero_as_saved_graphs_expect(ctx):
    out = FeatherMask(mask=Mask(torch.ones(1, 4, 8)), right=4).run(ctx).values[0]
    assert torch.allclose(out[0], torch.tensor([0.25, 1, 1, 1, 1, 1, 0.75, 0.5]))


def test_solid_inverted_cropped_and_thresholded_masks(ctx):
    assert SolidMask(value=0.25, width=3, height=2).run(ctx).values.tolist() == [[[0.25] * 3] * 2]
    mask = random_mask(1, 6, 7)
    assert torch.equal(InvertMask(mask=mask).run(ctx).values, 1 - mask.values)
    assert torch.equal(CropMask(mask=mask, x=2, y=1, width=3, height=99).run(ctx).values, mask.values[:, 1:, 2:5])
    for place in ({"x": 7}, {"y": 6}, {"x": 9, "y": 9}):
        with pytest.raises(ValueError, match="x, y: a place inside of the mask of 7 × 6 is wanted"):
            CropMask(mask=mask, **place).run(ctx)
    half = Mask(torch.tensor([[[0.5, 0.6]]]))
    assert ThresholdMask(mask=half, value=0.5).run(ctx).values.tolist() == [[[0, 1]]]


@pytest.mark.parametrize(
    ("operation", "wanted"),
    [
        ("multiply", [0.0, 0.0, 0.4, 0.36]),
        ("add", [0.0, 0.4, 1.0, 1.0]),
        ("subtract", [0.0, 0.0, 0.6, 0.0]),
        ("and", [0, 0, 0, 1]),
        ("or", [0, 0, 1, 1]),
        ("xor", [0, 0, 1, 0]),
    ],
)
def test_masks_combine_by_arithmetic_or_by_rounded_logic(ctx, operation, wanted):
    a, b = Mask(torch.tensor([[[0, 0, 1, 0.6]]])), Mask(torch.tensor([[[0, 0.4, 0.4, 0.6]]]))
    out = MaskComposite(destination=a, source=b, operation=operation).run(ctx).values[0, 0]
    assert torch.allclose(out, torch.tensor(wanted, dtype=torch.float32), atol=1e-6)


def test_a_mask_laid_over_the_edge_is_cut_off(ctx):
    a, b = Mask(torch.zeros(2, 4, 4)), Mask(torch.ones(1, 3, 3))
    out = MaskComposite(destination=a, source=b, x=3, y=2, operation="add").run(ctx).values
    wanted = torch.zeros(2, 4, 4)
    wanted[:, 2:, 3:] = 1
    assert torch.equal(out, wanted)
    assert torch.equal(a.values, torch.zeros(2, 4, 4))
