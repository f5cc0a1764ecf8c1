import pytest
import torch

from diffusion.values import Latent
from nodes.latent_math import LatentAdd, LatentBlend, LatentInterpolate, LatentMultiply, LatentSubtract


def latent(seed: int, batch: int = 1, size: int = 8, **extra) -> Latent:
    return Latent(torch.randn(batch, 4, size, size, generator=torch.Generator().manual_seed(seed)), **extra)


A, B = latent(1, 2), latent(2, 2)


def test_sum_difference_product_and_blend(ctx):
    assert torch.equal(LatentAdd(samples1=A, samples2=B).run(ctx).x, A.x + B.x)
    assert torch.equal(LatentSubtract(samples1=A, samples2=B).run(ctx).x, A.x - B.x)
    assert torch.equal(LatentMultiply(samples=A, multiplier=-0.5).run(ctx).x, A.x * -0.5)
    assert torch.allclose(LatentBlend(samples1=A, samples2=B, blend_factor=0.8).run(ctx).x, A.x * 0.8 + B.x * 0.2)
    assert torch.equal(LatentBlend(samples1=A, samples2=B, blend_factor=1.0).run(ctx).x, A.x)


def test_the_second_latent_is_fitted_to_the_first(ctx):
    one = latent(3)
    assert torch.equal(LatentAdd(samples1=A, samples2=one).run(ctx).x, A.x + one.x)
    assert LatentBlend(samples1=A, samples2=latent(3, 1, 5)).run(ctx).x.shape == A.x.shape


def test_one_latent_blends_with_each_of_several(ctx):
    one, several = latent(3), latent(4, 3, batch_index=(4, 5, 6))
    out = LatentBlend(samples1=one, samples2=several, blend_factor=0.25).run(ctx)
    assert torch.allclose(out.x, one.x * 0.25 + several.x * 0.75)
    told = LatentBlend(samples1=latent(3, batch_index=(9,)), samples2=several).run(ctx)
    assert (out.batch_index, told.batch_index) == (None, (4, 5, 6))


def test_interpolation_keeps_directions_and_lengths_apart(ctx):
    x, y = torch.zeros(1, 4, 1, 1), torch.zeros(1, 4, 1, 1)
    x[0, 0], y[0, 1] = 2.0, 4.0
    out = LatentInterpolate(samples1=Latent(x), samples2=Latent(y), ratio=0.5).run(ctx).x
    assert torch.allclose(out.flatten(), torch.tensor([1.0, 1.0, 0, 0]) * 3 / 2**0.5)
    assert torch.allclose(LatentInterpolate(samples1=A, samples2=B, ratio=1.0).run(ctx).x, A.x, atol=1e-6)
    zero = Latent(torch.zeros(1, 4, 1, 1))
    assert LatentInterpolate(samples1=zero, samples2=zero, ratio=0.5).run(ctx).x.abs().max() == 0


def test_latents_of_other_kinds_are_refused(ctx):
    with pytest.raises(ValueError, match="samples2: 4 channels are wanted as in samples1, 16 given"):
        LatentAdd(samples1=A, samples2=Latent(torch.zeros(1, 16, 8, 8))).run(ctx)
    with pytest.raises(ValueError, match="samples2: a sd1 latent is wanted as in samples1, sdxl given"):
        LatentAdd(samples1=latent(1, format="sd1"), samples2=latent(1, format="sdxl")).run(ctx)


def test_what_is_known_of_the_first_latent_stays(ctx):
    told = latent(1, 2, format="sd1", batch_index=(3, 4))
    out = LatentAdd(samples1=told, samples2=B).run(ctx)
    assert (out.format, out.batch_index) == ("sd1", (3, 4))
