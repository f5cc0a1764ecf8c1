"""VAEs that saved graphs call by a name and not by a file: the tiny autoencoders and pixel space."""

import pytest
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import save_file

from diffusion.values import Image, Latent
from graph_engine.errors import NodeError
from nodes.load import VAELoader
from nodes.save_models import VAESave
from nodes.vae import VAEDecode, VAEEncode


@pytest.fixture
def tiny(ctx, tmp_path):
    """A small tiny autoencoder; its weights lie in the folder under the authors' names."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = AutoencoderTiny(encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4).eval()
    folder = tmp_path / "models/vae_approx"
    folder.mkdir(parents=True)
    for name in ("taesd", "taesdxl"):
        encoder = {key: tensor.contiguous() for key, tensor in network.encoder.layers.state_dict().items()}
        decoder = {}
        for key, tensor in network.decoder.layers.state_dict().items():
            number, _, rest = key.partition(".")
            decoder[f"{int(number) + 1}.{rest}"] = tensor.contiguous()
        save_file(encoder, folder / f"{name}_encoder.safetensors")
        save_file(decoder, folder / f"{name}_decoder.safetensors")
    return network


@pytest.mark.parametrize(("name", "scale"), [("taesd", 0.18215), ("taesdxl", 0.13025)])
def test_a_tiny_autoencoder_is_diffusers_with_latents_unscaled(name, scale, tiny, ctx):
    pixels = torch.rand(2, 16, 24, 3, generator=torch.Generator().manual_seed(1))
    vae = VAELoader(vae_name=name).run(ctx)
    latent = VAEEncode(pixels=Image(pixels), vae=vae).run(ctx)
    with torch.no_grad():
        wanted = tiny.encode(pixels.movedim(-1, 1) * 2 - 1).latents
        decoded = tiny.decode(latent.x * scale).sample
    assert torch.allclose(latent.x * scale, wanted, atol=1e-5)
    picture = VAEDecode(samples=latent, vae=vae).run(ctx).pixels
    assert torch.allclose(picture, ((decoded + 1) / 2).clamp(0, 1).movedim(1, -1), atol=1e-5)


def test_in_pixel_space_the_picture_is_its_latent(ctx):
    pixels = torch.rand(1, 5, 7, 3, generator=torch.Generator().manual_seed(1))
    vae = VAELoader(vae_name="pixel_space").run(ctx)
    latent = VAEEncode(pixels=Image(pixels), vae=vae).run(ctx)
    assert torch.equal(latent.x, pixels.movedim(-1, 1) * 2 - 1)
    assert torch.allclose(VAEDecode(samples=latent, vae=vae).run(ctx).pixels, pixels, atol=1e-6)
    with pytest.raises(ValueError, match="pixel_space latent is wanted by this VAE, sd1 given"):
        VAEDecode(samples=Latent(torch.zeros(1, 4, 2, 2), format="sd1"), vae=vae).run(ctx)
    with pytest.raises(NodeError, match="only the full VAE of a model can be written"):
        VAESave(vae=vae).run(ctx)


def test_what_cannot_be_is_named(ctx):
    with pytest.raises(NodeError, match=r"taesd_encoder\.safetensors is wanted in the folder vae_approx"):
        VAELoader(vae_name="taesd").run(ctx)
    with pytest.raises(NodeError, match="taesd3 reads latents of 16 channels"):
        VAELoader(vae_name="taesd3").run(ctx)
