import pytest
import torch

from diffusion.values import Image, Latent
from nodes.rebatch import RebatchImages, RebatchLatents


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("sizes", "batch", "wanted"), [([3, 4], 2, [2, 2, 2, 1]), ([5], 1, [1] * 5), ([2, 2, 2], 9, [6])])
def test_pictures_stay_in_order(ctx, sizes, batch, wanted):
    images = [Image(x) for x in noise(sum(sizes), 4, 5, 3).split(sizes)]
    out = RebatchImages(images=images, batch_size=batch).run(ctx)
    assert [len(image.pixels) for image in out] == wanted
    assert torch.equal(torch.cat([image.pixels for image in out]), torch.cat([image.pixels for image in images]))


def test_pictures_of_two_sizes_share_no_batch(ctx):
    images = [Image(noise(1, 4, 5, 3)), Image(noise(1, 5, 4, 3))]
    assert len(RebatchImages(images=images, batch_size=1).run(ctx)) == 2
    with pytest.raises(ValueError, match="pictures of one size are wanted in a batch"):
        RebatchImages(images=images, batch_size=2).run(ctx)


def test_latents_keep_their_noise_and_a_new_size_begins_a_batch(ctx):
    latents = [Latent(noise(3, 4, 8, 8)), Latent(noise(2, 4, 8, 8), batch_index=(7, 7)), Latent(noise(2, 4, 4, 8))]
    out = RebatchLatents(latents=latents, batch_size=2).run(ctx)
    assert [latent.x.shape[0] for latent in out] == [2, 2, 1, 2]
    assert [latent.batch_index for latent in out] == [(0, 1), (2, 7), (7,), (5, 6)]
    assert torch.equal(torch.cat([latent.x for latent in out[:3]]), torch.cat([latent.x for latent in latents[:2]]))


def test_where_only_some_have_a_noise_mask_the_others_may_change_everywhere(ctx):
    latents = [Latent(noise(1, 4, 8, 8)), Latent(noise(1, 4, 8, 8), noise_mask=torch.zeros(1, 1, 64, 64))]
    (out,) = RebatchLatents(latents=latents, batch_size=2).run(ctx)
    assert out.noise_mask is not None
    assert out.noise_mask[:, 0].mean((1, 2)).tolist() == [1, 0]
    (plain,) = RebatchLatents(latents=latents[:1], batch_size=2).run(ctx)
    assert plain.noise_mask is None
