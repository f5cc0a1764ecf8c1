import pytest
import torch

from diffusion.mask import blend, composite, for_inpaint, grow


def dot(n=7):
    mask = torch.zeros(1, n, n)
    mask[0, n // 2, n // 2] = 1
    return mask


def distances(n=7):
    at = torch.arange(n) - n // 2
    return at.abs()[:, None], at.abs()[None, :]


def test_a_dot_grows_into_a_diamond_or_a_square():
    dy, dx = distances()
    assert torch.equal(grow(dot(), 2, tapered_corners=True)[0], (dy + dx <= 2).float())
    assert torch.equal(grow(dot(), 2, tapered_corners=False)[0], (torch.maximum(dy, dx) <= 2).float())


@pytest.mark.parametrize("tapered", [True, False])
def test_shrinking_is_growing_of_the_rest(tapered):
    mask = torch.rand(2, 9, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(grow(mask, -2, tapered), 1 - grow(1 - mask, 2, tapered))
    assert torch.equal(grow(mask, 0, tapered), mask)


def test_the_border_does_not_shrink_a_full_mask():
    assert grow(torch.ones(1, 5, 5), -3).min() == 1


def test_grey_levels_are_kept():
    mask = dot() * 0.4
    assert grow(mask, 1).unique().tolist() == pytest.approx([0.0, 0.4])


def test_for_inpaint_greys_what_is_covered_and_grows_the_noise_mask():
    image = torch.full((1, 16, 16, 3), 0.9)
    mask = torch.zeros(1, 16, 16)
    mask[0, 8, 8], mask[0, 2, 2] = 0.6, 0.4
    pixels, noise_mask = for_inpaint(image, mask, grow_by=5)
    assert pixels[0, 8, 8].tolist() == pytest.approx([0.5] * 3)
    assert pixels[0, 2, 2].tolist() == pytest.approx([0.9] * 3)
    expected = torch.zeros(1, 16, 16)
    expected[0, 6:11, 6:11] = 1
    assert torch.equal(noise_mask, expected)
    _, even = for_inpaint(image, mask, grow_by=6)
    expected = torch.zeros(1, 16, 16)
    expected[0, 6:12, 6:12] = 1  # an even square lies half a cell towards the far corner
    assert torch.equal(even, expected)
    _, none = for_inpaint(image, mask, grow_by=0)
    assert none.sum() == 1


def test_for_inpaint_fits_the_mask_and_the_cell():
    pixels, noise_mask = for_inpaint(torch.rand(2, 35, 20, 3), torch.ones(1, 10, 10), multiple=8)
    assert pixels.shape == (2, 32, 16, 3)
    assert noise_mask.shape == (1, 32, 16)
    assert pixels.unique().tolist() == [0.5]


def test_composite_pastes_and_cuts():
    to, source = torch.zeros(1, 2, 6, 6), torch.ones(1, 2, 4, 4)
    out = composite(to, source, 3, 4)
    assert out.sum() == 2 * 2 * 3
    assert out[0, 0, 4:, 3:].min() == 1
    assert to.sum() == 0
    assert torch.equal(composite(to, source, 9, 9), to)


def test_composite_feathers_the_sides_inside():
    to, source = torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 6, 8)
    out = composite(to, source, 0, 2, feather=2)[0, 0]  # only the upper side lies inside
    assert out[:, 3].tolist() == [0, 0, 0.5, 1, 1, 1, 1, 1]
    out = composite(to, torch.ones(1, 1, 4, 4), 2, 2, feather=2)[0, 0]
    side = torch.tensor([0.5, 1.0, 1.0, 0.5])
    assert torch.equal(out[2:6, 2:6], side[:, None] * side)


def test_composite_of_a_batch_onto_what_is_there():
    to, source = torch.full((3, 1, 4, 4), 2.0), torch.full((1, 1, 2, 2), 4.0)
    out = composite(to, source, 1, 1, feather=2)
    assert out[2, 0, 1, 1] == 2 + (4 - 2) * 0.25


def test_blend_weighs_the_first():
    a, b = torch.full((1, 4, 4, 4), 1.0), torch.full((1, 4, 4, 4), 3.0)
    assert torch.allclose(blend(a, b, 0.25), torch.full_like(a, 2.5))
    other = torch.full((1, 4, 6, 9), 3.0)
    assert torch.allclose(blend(a, other, 0.25), torch.full_like(a, 2.5))
