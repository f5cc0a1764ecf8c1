import pytest
import torch

from diffusion.noise import prepare_noise
from diffusion.values import Latent, Mask
from nodes.latent import EmptyLatentImage, LatentUpscale, LatentUpscaleBy, SetLatentNoiseMask
from nodes.latent_batch import LatentBatch, LatentBatchSeedBehavior, LatentFromBatch, RepeatLatentBatch


def latent(batch: int = 1, height: int = 16, width: int = 16, **extra) -> Latent:
    return Latent(torch.randn(batch, 4, height, width, generator=torch.Generator().manual_seed(0)), **extra)


def test_an_empty_latent_has_an_eighth_of_the_sides(ctx):
    out = EmptyLatentImage(width=100, height=64, batch_size=2).run(ctx)
    assert out.x.shape == (2, 4, 8, 12)
    assert not out.x.any()
    assert out.format is None


@pytest.mark.parametrize(
    ("width", "height", "wanted"), [(0, 0, (16, 24)), (256, 128, (16, 32)), (0, 256, (32, 48)), (96, 0, (8, 12)), (32, 32, (8, 8))]
)
def test_upscaling_counts_in_pixels_and_goes_down_to_64(ctx, width, height, wanted):
    samples = latent(height=16, width=24)
    out = LatentUpscale(samples=samples, upscale_method="bilinear", width=width, height=height).run(ctx)
    assert tuple(out.x.shape[2:]) == wanted


def test_upscaling_by_a_factor_rounds(ctx):
    out = LatentUpscaleBy(samples=latent(height=5, width=7, format="sd1"), upscale_method="nearest-exact", scale_by=1.5).run(ctx)
    assert tuple(out.x.shape[2:]) == (round(7.5), round(10.5))
    assert out.format == "sd1"


def test_bislerp_keeps_the_length_of_vectors_where_bilinear_shrinks_it(ctx):
    x = torch.zeros(1, 4, 1, 2)
    x[0, 0, 0, 0] = x[0, 1, 0, 1] = 2.0
    lengths = {
        method: LatentUpscaleBy(samples=Latent(x), upscale_method=method, scale_by=2.0).run(ctx).x.norm(dim=1)
        for method in ("bilinear", "bislerp")
    }
    assert torch.allclose(lengths["bislerp"], torch.tensor(2.0), atol=1e-5)
    assert lengths["bilinear"].min() < 1.7


def test_a_noise_mask_gets_a_channel(ctx):
    mask = Mask(torch.rand(2, 9, 7))
    out = SetLatentNoiseMask(samples=latent(2), mask=mask).run(ctx)
    assert torch.equal(out.noise_mask, mask.values[:, None])


def test_a_latent_out_of_a_batch_keeps_the_noise_it_would_draw_there(ctx):
    samples = latent(4, noise_mask=torch.arange(4.0).reshape(4, 1, 1, 1))
    out = LatentFromBatch(samples=samples, batch_index=2, length=9).run(ctx)
    assert torch.equal(out.x, samples.x[2:])
    assert out.batch_index == (2, 3)
    assert out.noise_mask.flatten().tolist() == [2, 3]
    whole, part = prepare_noise(samples.x.shape, 7), prepare_noise(out.x.shape, 7, out.batch_index)
    assert torch.equal(part, whole[2:])
    again = LatentFromBatch(samples=out, batch_index=1, length=1).run(ctx)
    assert again.batch_index == (3,)


def test_copies_of_a_batch_draw_noise_of_their_own(ctx):
    taken = LatentFromBatch(samples=latent(4), batch_index=1, length=2).run(ctx)
    out = RepeatLatentBatch(samples=taken, amount=3).run(ctx)
    assert out.x.shape[0] == 6
    assert out.batch_index == (1, 2, 3, 4, 5, 6)
    assert torch.equal(out.x[:2], out.x[4:])
    assert RepeatLatentBatch(samples=latent(2), amount=2).run(ctx).batch_index is None


def test_fixed_seeds_give_every_latent_the_first_noise(ctx):
    out = LatentBatchSeedBehavior(samples=latent(3, batch_index=(5, 6, 7)), seed_behavior="fixed").run(ctx)
    assert out.batch_index == (5, 5, 5)
    noise = prepare_noise(out.x.shape, 1, out.batch_index)
    assert torch.equal(noise[0], noise[2])
    assert LatentBatchSeedBehavior(samples=out, seed_behavior="random").run(ctx).batch_index is None


def test_joined_batches_have_the_first_ones_mask(ctx):
    """As ComfyUI's, which copies the first latent and exchanges its samples."""
    mask = torch.zeros(1, 1, 4, 4)
    a, b = latent(2, format="sd1"), latent(1, 8, 8, noise_mask=mask)
    out = LatentBatch(samples1=a, samples2=b).run(ctx)
    assert out.x.shape == (3, 4, 16, 16)
    assert out.noise_mask is None
    assert out.batch_index == (0, 1, 0)
    assert out.format == "sd1"
    assert LatentBatch(samples1=b, samples2=a).run(ctx).noise_mask is mask
