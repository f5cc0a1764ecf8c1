import pytest
import torch

from diffusion.channels import GREY, Origin, further
from diffusion.values import Cond

X = torch.zeros(2, 4, 6, 8)
EMBEDS = torch.zeros(1, 3, 5)
PICTURE = torch.randn(1, 4, 6, 8, generator=torch.Generator().manual_seed(0))
MASK = torch.zeros(1, 1, 48, 64)
MASK[..., 32:] = 1


def test_most_networks_have_none():
    assert further(Cond(EMBEDS), X, 0, 0.5, None) is None
    with pytest.raises(ValueError, match="3 input channels"):
        further(Cond(EMBEDS), X, 3, 0.5, None)


def test_inpainting_sees_the_rounded_mask_and_the_scaled_picture():
    seen = further(Cond(EMBEDS, concat_latent=PICTURE, concat_mask=MASK * 0.6), X, 5, 0.5, Origin(X + 9, None))
    assert seen.shape == (2, 5, 6, 8)
    assert torch.equal(seen[1, 0], (torch.arange(8) >= 4).float().expand(6, 8))
    assert torch.equal(seen[:, 1:], (PICTURE * 0.5).expand(2, -1, -1, -1))


def test_without_a_conditioning_it_sees_what_is_repainted_or_grey():
    seen = further(Cond(EMBEDS), X, 5, 0.5, Origin(PICTURE.expand(2, -1, -1, -1), MASK))
    assert torch.equal(seen[:, 1:], PICTURE.expand(2, -1, -1, -1))
    grey = further(Cond(EMBEDS), X, 5, 0.5, Origin(PICTURE, None))
    assert torch.equal(grey[:, :1], torch.ones(2, 1, 6, 8))
    assert grey[1, 1:, 3, 3].tolist() == pytest.approx(GREY)


def test_instruct_pix2pix_sees_the_picture_without_the_scale():
    assert torch.equal(further(Cond(EMBEDS, concat_latent=PICTURE), X, 4, 0.5, None), PICTURE.expand(2, -1, -1, -1))
    assert not further(Cond(EMBEDS), X, 4, 0.5, None).any()


def test_other_sizes_are_cropped_to_the_aspect_and_resized():
    wide = torch.cat([torch.full((1, 4, 6, 4), 7.0), torch.zeros(1, 4, 6, 8), torch.full((1, 4, 6, 4), 7.0)], dim=3)
    assert not further(Cond(EMBEDS, concat_latent=wide), X, 4, 1.0, None).any()
    assert further(Cond(EMBEDS, concat_latent=PICTURE), X[..., :3, :4], 4, 1.0, None).shape == (2, 4, 3, 4)
