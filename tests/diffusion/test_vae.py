from dataclasses import replace

import pytest
import torch

from diffusion import vae as autoencoder
from diffusion.values import Image, Latent, Mask


@pytest.fixture
def image() -> Image:
    return Image(torch.rand(2, 32, 40, 3, generator=torch.Generator().manual_seed(0)))


def test_encoding_is_the_mode_of_the_posterior_unscaled(vae, device, image):
    latent = autoencoder.encode(vae, image, device)
    with device.weights(vae.weights) as module, torch.no_grad():
        expected = module.encode(image.pixels.movedim(-1, 1) * 2 - 1).latent_dist.mode()
    assert latent.x.shape == (2, 4, 4, 5)
    assert torch.allclose(latent.x, expected, atol=1e-5)
    assert latent.format == "sd1"
    assert torch.equal(autoencoder.encode(vae, image, device).x, latent.x)


def test_pictures_are_cropped_around_the_centre(vae, device):
    pixels = torch.rand(1, 37, 45, 3, generator=torch.Generator().manual_seed(0))
    whole = autoencoder.encode(vae, Image(pixels), device)
    cropped = autoencoder.encode(vae, Image(pixels[:, 2:34, 2:42]), device)
    assert torch.equal(whole.x, cropped.x)


def test_decoding_clips_to_pictures(vae, device):
    x = torch.randn(2, 4, 4, 5, generator=torch.Generator().manual_seed(0)) * 20
    image = autoencoder.decode(vae, Latent(x), device)
    with device.weights(vae.weights) as module, torch.no_grad():
        raw = module.decode(x).sample.movedim(1, -1)
    assert image.pixels.shape == (2, 32, 40, 3)
    assert torch.allclose(image.pixels, ((raw + 1) / 2).clamp(0, 1), atol=1e-5)
    assert image.pixels.is_contiguous()


def test_large_batches_go_through_in_parts(vae, device, image, monkeypatch):
    together = autoencoder.encode(vae, image, device)
    monkeypatch.setattr(autoencoder, "PIXELS_AT_ONCE", 1)
    assert torch.allclose(autoencoder.encode(vae, image, device).x, together.x, atol=1e-5)
    decoded = autoencoder.decode(vae, together, device)
    assert decoded.pixels.shape == image.pixels.shape


def test_latents_of_other_models_are_refused(vae, device):
    with pytest.raises(ValueError, match="sdxl given"):
        autoencoder.decode(vae, Latent(torch.zeros(1, 4, 2, 2), format="sdxl"), device)
    with pytest.raises(ValueError, match="4 latent channels"):
        autoencoder.decode(vae, Latent(torch.zeros(1, 16, 2, 2)), device)
    with pytest.raises(ValueError, match="8 × 8"):
        autoencoder.encode(vae, Image(torch.zeros(1, 4, 64, 3)), device)


@pytest.mark.parametrize(("grow", "side"), [(0, 8), (1, 8), (3, 10), (6, 13)])
def test_inpainting_greys_the_hole_and_grows_the_mask(vae, device, image, grow, side):
    mask = torch.zeros(1, 32, 40)
    mask[:, 12:20, 12:20] = 0.7
    latent = autoencoder.encode_for_inpaint(vae, image, Mask(mask), grow, device)
    greyed = torch.where(mask[..., None] > 0.5, torch.tensor(0.5), image.pixels)
    assert torch.allclose(latent.x, autoencoder.encode(vae, Image(greyed), device).x, atol=1e-5)
    assert latent.noise_mask.shape == (1, 1, 32, 40)
    assert latent.noise_mask.sum() == side**2
    assert latent.noise_mask.unique().tolist() == [0, 1]


def test_an_inpainting_mask_is_resized_and_cropped_like_its_picture(vae, device):
    mask = torch.zeros(1, 20, 20)
    mask[:, 10:] = 1
    latent = autoencoder.encode_for_inpaint(vae, Image(torch.ones(1, 40, 44, 3)), Mask(mask), 0, device)
    assert latent.noise_mask.shape == (1, 1, 40, 40)
    assert torch.equal(latent.noise_mask[0, 0, :, 0], torch.cat([torch.zeros(20), torch.ones(20)]))
    with pytest.raises(ValueError, match="grow"):
        autoencoder.encode_for_inpaint(vae, Image(torch.ones(1, 8, 8, 3)), Mask(mask), -1, device)


def test_nothing_writes_into_inputs(vae, device, image):
    mask = Mask(torch.ones(1, 32, 40))
    latent = autoencoder.encode_for_inpaint(vae, image, mask, 6, device)
    autoencoder.decode(vae, replace(latent), device)
    assert (image.pixels._version, mask.values._version) == (0, 0)
