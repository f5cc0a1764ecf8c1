import pytest
import torch

from diffusion.values import Image, Latent, Mask
from nodes.vae import VAEDecode, VAEEncode, VAEEncodeForInpaint


def picture(height: int = 64, width: int = 64, batch: int = 1) -> Image:
    return Image(torch.rand(batch, height, width, 3, generator=torch.Generator().manual_seed(0)))


def test_encoding_is_deterministic_and_trims_to_cells(ctx, vae):
    whole = VAEEncode(pixels=picture(70, 67), vae=vae).run(ctx)
    assert tuple(whole.x.shape) == (1, 4, 8, 8)
    trimmed = Image(picture(70, 67).pixels[:, 3:67, 1:65])
    assert torch.equal(whole.x, VAEEncode(pixels=trimmed, vae=vae).run(ctx).x)
    assert whole.format == "sd1"


def test_decoding_gives_eight_pixels_a_cell_from_0_to_1(ctx, vae):
    out = VAEDecode(samples=Latent(torch.randn(2, 4, 5, 6) * 20), vae=vae).run(ctx).pixels
    assert tuple(out.shape) == (2, 40, 48, 3)
    assert 0 <= out.min() <= out.max() <= 1


def test_inpainting_greys_out_what_the_mask_covers_and_grows_the_noise_mask(ctx, vae):
    mask = torch.zeros(1, 64, 64)
    mask[:, 24:40, 24:40] = 1
    out = VAEEncodeForInpaint(pixels=picture(), vae=vae, mask=Mask(mask), grow_mask_by=6).run(ctx)
    grey = picture().pixels.clone()
    grey[:, 24:40, 24:40] = 0.5
    assert torch.allclose(out.x, VAEEncode(pixels=Image(grey), vae=vae).run(ctx).x, atol=1e-6)
    rows = out.noise_mask[0, 0].any(1).nonzero().flatten()
    assert (rows.min().item(), rows.max().item()) == (24 - 2, 39 + 3)  # a 6 × 6 square reaches 3 to one side, 2 to the other
    bare = VAEEncodeForInpaint(pixels=picture(), vae=vae, mask=Mask(mask), grow_mask_by=0).run(ctx)
    assert torch.equal(bare.noise_mask[:, 0], mask)


def test_a_latent_of_another_format_is_refused(ctx, vae):
    with pytest.raises(ValueError, match="a sd1 latent is wanted by this VAE, sdxl given"):
        VAEDecode(samples=Latent(torch.zeros(1, 4, 4, 4), format="sdxl"), vae=vae).run(ctx)
