import json
from types import SimpleNamespace

import torch
import torch.nn.functional as F

from toybox.preview import FILE, linear_colors, write_linear_colors
from toybox.scenes import render, sample

MIX = torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, 0.3], [0.2, 0.0, 1.0], [0.4, 0.4, 0.4]])  # latent channel from colours


def latents(pixels: torch.Tensor) -> torch.Tensor:
    """A VAE that only mixes mean colours, of pictures (n, 3, h, w) from -1 to 1."""
    return torch.einsum("nchw,lc->nlhw", F.avg_pool2d(pixels, 8), MIX)


def test_a_linear_vae_is_undone_exactly():
    images, _ = render([sample(seed) for seed in range(8)])
    x = latents(images.permute(0, 3, 1, 2) * 2 - 1)[:, :3]
    weight, bias = linear_colors(x, images)
    shown = torch.einsum("nchw,cd->nhwd", x.double(), weight) + bias
    wanted = F.avg_pool2d(images.permute(0, 3, 1, 2), 8).permute(0, 2, 3, 1)
    assert torch.allclose(shown.float(), wanted, atol=1e-5)


def test_the_map_lies_beside_the_weights_in_the_scale_of_the_denoiser(tmp_path):
    class Vae:
        device, dtype, config = "cpu", torch.float32, SimpleNamespace(scaling_factor=0.5)

        def encode(self, pixels):
            return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: latents(pixels)))

    write_linear_colors(Vae(), tmp_path, count=8)
    found = json.loads((tmp_path / FILE).read_text())
    images, _ = render([sample(100)])
    x = latents(images.permute(0, 3, 1, 2) * 2 - 1) * 0.5
    shown = torch.einsum("nchw,cd->nhwd", x, torch.tensor(found["weight"])) + torch.tensor(found["bias"])
    wanted = F.avg_pool2d(images.permute(0, 3, 1, 2), 8).permute(0, 2, 3, 1)
    assert torch.allclose(shown, wanted, atol=2e-2)
