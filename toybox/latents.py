"""The training set as the U-Net sees it: every scene's latent and masks on the 16 x 16 grid, computed once."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor

from toybox.scenes import render, sample
from toybox.vae import SCALING


@torch.no_grad()
def fold_normalization(vae: AutoencoderKL, images: Tensor) -> None:
    """Rewrite quant_conv and post_quant_conv so that latents times the scaling factor have mean 0 and variance 1 in each channel."""
    z = torch.cat([vae.encode(x).latent_dist.mean for x in images.split(32)]).transpose(0, 1).flatten(1)
    mean, scale = z.mean(1), z.std(1) * SCALING
    into, back = vae.quant_conv, vae.post_quant_conv
    n = len(mean)
    into.bias[:n] -= mean
    into.bias[:n] /= scale
    into.weight[:n] /= scale[:, None, None, None]
    into.bias[n:] -= 2 * scale.log()  # the log variance
    back.bias += back.weight[:, :, 0, 0] @ mean
    back.weight *= scale[None, :, None, None]


@torch.no_grad()
def encode_scenes(vae: AutoencoderKL, first: int, count: int, device: str) -> dict[str, Tensor]:
    """Scaled latents (n, 4, 16, 16) and masks (n, 2, 16, 16) of the scenes with seeds first, first + 1, ..."""
    vae = vae.to(device, memory_format=torch.channels_last)
    latents, masks = [], []
    for start in range(first, first + count, 50):
        images, cover = render([sample(s) for s in range(start, min(start + 50, first + count))])
        x = images.permute(0, 3, 1, 2).to(device) * 2 - 1
        latents.append((vae.encode(x).latent_dist.mean * SCALING).half().cpu())
        masks.append((F.avg_pool2d(cover, 8) * 255).round().byte())
    return {"latents": torch.cat(latents).contiguous(), "masks": torch.cat(masks)}


def cache(vae: AutoencoderKL, path: Path, count: int, device: str) -> None:
    """Write the first `count` scenes to a safetensors file, in parts of 2,000 that survive an interruption."""
    parts = []
    for first in range(0, count, 2000):
        part = path.with_name(f"{path.stem}-{first}.safetensors")
        if not part.exists():
            save_file(encode_scenes(vae, first, min(2000, count - first), device), part)
            print(f"cached {first + 2000} scenes", flush=True)
        parts.append(part)
    loaded = [load_file(p) for p in parts]
    save_file({k: torch.cat([p[k] for p in loaded]) for k in loaded[0]}, path)
    for part in parts:
        part.unlink()


def load(path: Path) -> dict[str, Tensor]:
    return load_file(path)
