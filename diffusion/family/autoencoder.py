"""A VAE that came without a model, so that it does not tell whose latents it makes; and how any VAE of this kind is run.

Kingma & Welling 2014 in the form of Rombach et al. 2022.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from diffusion.family import LatentFormat
from diffusion.family.parts import load_vae
from diffusion.values import WeightsRef

Module = Any  # diffusers declares no types

latent = LatentFormat(None, scale=1.0, channels=4, factor=8)


def load(ref: WeightsRef, dtype: torch.dtype) -> nn.Module:
    """Load the VAE of a file or folder."""
    if ref.part != "vae":
        raise ValueError(f"weights: part vae is wanted, {ref.part!r} given")
    return load_vae(ref, dtype)


def encode(vae: Module, pixels: Tensor) -> Tensor:
    """The mode of the posterior, unscaled."""
    mode: Tensor = vae.encode(pixels.to(vae.dtype)).latent_dist.mode()
    return mode.float()


def decode(vae: Module, x: Tensor) -> Tensor:
    """Pixels, about -1 to 1."""
    pixels: Tensor = vae.decode(x.to(vae.dtype), return_dict=False)[0]
    return pixels.float()
