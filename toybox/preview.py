"""Quick looks at latents: the linear map from latent channels to colours, kept beside the weights for whoever shows a run in progress."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from toybox.scenes import render, sample

FILE = "latent_rgb.json"


def linear_colors(x: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Weight (c, 3) and bias (3,) with which weight·x + bias explains pictures (n, H, W, 3) best by latents (n, c, h, w), least squares."""
    colors = F.interpolate(images.permute(0, 3, 1, 2).double(), x.shape[2:], mode="area").permute(0, 2, 3, 1).reshape(-1, 3)
    rows = x.double().permute(0, 2, 3, 1).reshape(-1, x.shape[1])
    solution = torch.linalg.lstsq(torch.cat([rows, rows.new_ones(len(rows), 1)], 1), colors).solution
    return solution[:-1], solution[-1]


def write_linear_colors(vae: AutoencoderKL, folder: Path, count: int = 96) -> None:
    """Fit the map on rendered scenes, latents in the denoiser's scale, and write it into a checkpoint folder."""
    images, _ = render([sample(seed) for seed in range(count)])
    with torch.no_grad():
        x = vae.encode(images.permute(0, 3, 1, 2).to(vae.device, vae.dtype) * 2 - 1).latent_dist.mode().cpu()
    weight, bias = (t.mul(1e4).round().div(1e4).tolist() for t in linear_colors(x * vae.config.scaling_factor, images))
    (folder / FILE).write_text(json.dumps({"weight": weight, "bias": bias}, indent=1) + "\n")
