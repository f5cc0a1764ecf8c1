import pytest
import torch

from diffusion.values import Latent, Mask
from nodes.latent_place import LatentComposite, LatentCompositeMasked, LatentCrop, LatentFlip, LatentRotate

X = torch.arange(4 * 16 * 16, dtype=torch.float32).reshape(1, 4, 16, 16)


def test_a_crop_counts_in_pixels_and_leaves_eight_cells(ctx):
    assert torch.equal(LatentCrop(samples=Latent(X), width=64, height=80, x=16, y=8).run(ctx).x, X[..., 1:11, 2:10])
    far = LatentCrop(samples=Latent(X), width=512, height=512, x=1000, y=1000).run(ctx).x
    assert torch.equal(far, X[..., 8:, 8:])
    small = Latent(X[..., :4, :4])
    assert torch.equal(LatentCrop(samples=small, width=64, height=64, x=8, y=8).run(ctx).x, small.x)


def test_flips_and_turns(ctx):
    assert torch.equal(LatentFlip(samples=Latent(X), flip_method="x-axis: vertically").run(ctx).x, X.flip(2))
    assert torch.equal(LatentFlip(samples=Latent(X), flip_method="y-axis: horizontally").run(ctx).x, X.flip(3))
    turned = LatentRotate(samples=Latent(X), rotation="90 degrees").run(ctx).x
    assert torch.equal(turned[..., 0, :], X[..., :, 0].flip(-1))  # clockwise: the left column, from below, is now on top
    assert torch.equal(LatentRotate(samples=Latent(turned), rotation="270 degrees").run(ctx).x, X)
    assert torch.equal(LatentRotate(samples=Latent(X), rotation="180 degrees").run(ctx).x, X.flip(2, 3))


ZEROS, ONES = Latent(torch.zeros(1, 4, 16, 16)), Latent(torch.ones(1, 4, 6, 6))


def test_a_paste_without_feather_is_exact_and_cut_off(ctx):
    out = LatentComposite(samples_to=ZEROS, samples_from=ONES, x=88, y=16).run(ctx).x
    wanted = torch.zeros(1, 4, 16, 16)
    wanted[..., 2:8, 11:] = 1
    assert torch.equal(out, wanted)
    assert not ZEROS.x.any()


def test_feathered_edges_ramp_except_at_the_border(ctx):
    out = LatentComposite(samples_to=ZEROS, samples_from=ONES, x=0, y=16, feather=24).run(ctx).x[0, 0]
    ramp = torch.tensor([1 / 3, 2 / 3, 1, 1, 2 / 3, 1 / 3])
    assert torch.allclose(out[2:8, 0], ramp)  # top and bottom fade, the left side lies on the border
    assert torch.allclose(out[4, :6], torch.tensor([1, 1, 1, 1, 2 / 3, 1 / 3]))
    assert torch.allclose(out[2, 5], torch.tensor(1 / 9))  # ramps of a corner multiply


def test_a_masked_paste_mixes_by_the_mask(ctx):
    mask = Mask(torch.tensor([[[0.0, 1.0], [0.0, 1.0]]]))
    two = Latent(torch.ones(1, 4, 2, 2))
    out = LatentCompositeMasked(destination=ZEROS, source=two, x=8, y=8, mask=mask).run(ctx).x[0, 0]
    assert out[1:3, 1:3].tolist() == [[0, 1], [0, 1]]
    assert out.sum() == 2
    everywhere = LatentCompositeMasked(destination=ZEROS, source=two, x=0, y=0, resize_source=True).run(ctx).x
    assert torch.allclose(everywhere, torch.ones_like(everywhere))


def test_pastes_that_cannot_be_are_refused(ctx):
    with pytest.raises(ValueError, match="samples_from: a batch of 1 or 1 with 4 channels as in samples_to is wanted"):
        LatentComposite(samples_to=ZEROS, samples_from=Latent(torch.zeros(1, 3, 2, 2))).run(ctx)
    with pytest.raises(ValueError, match="source: 4 channels are wanted as in destination, 3 given"):
        LatentCompositeMasked(destination=ZEROS, source=Latent(torch.zeros(1, 3, 2, 2))).run(ctx)
