"""Stable Diffusion 1.x and what has its shape (2.x, inpainting and InstructPix2Pix variants, the toybox model).

A U-Net with cross-attention to one CLIP text encoder.

Rombach et al. 2022.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusion.family import LatentFormat
from diffusion.family.autoencoder import decode, encode
from diffusion.family.parts import find_text, load_tower, load_tower_folder, load_unet, load_vae
from diffusion.family.unet import blocks, inputs, plain, predict, sites, sizes, working_bytes
from diffusion.files import open_tensors
from diffusion.values import WeightsRef

__all__ = [
    "added",
    "blocks",
    "decode",
    "encode",
    "inputs",
    "latent",
    "load",
    "mismatch",
    "plain",
    "predict",
    "sites",
    "sizes",
    "working_bytes",
]

Module = Any  # diffusers declares no types

latent = LatentFormat("sd1", scale=0.18215, channels=4, factor=8)


def mismatch(configs: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Why a diffusers folder is not of this family; None when it is."""
    unet, text = configs["unet"], configs.get("text_encoder", {})
    if unet.get("_class_name") != "UNet2DConditionModel":
        return f"the denoiser is a {unet.get('_class_name')}, a UNet2DConditionModel is wanted"
    if unet.get("addition_embed_type") is not None:
        return f"the U-Net wants {unet['addition_embed_type']} embeddings beside the text"
    if "CLIPTextModel" not in text.get("architectures", ()):
        return f"the text encoder is a {text.get('architectures')}, a CLIPTextModel is wanted"
    if unet.get("cross_attention_dim") != text.get("hidden_size"):
        return f"the U-Net reads text of width {unet.get('cross_attention_dim')}, the text encoder makes {text.get('hidden_size')}"
    return vae_mismatch(configs["vae"], latent)


def vae_mismatch(vae: Mapping[str, Any], wanted: LatentFormat) -> str | None:
    """Why the VAE of a diffusers folder does not make such latents; None when it does."""
    channels = vae.get("latent_channels", wanted.channels)
    if vae.get("_class_name") != "AutoencoderKL" or channels != wanted.channels:
        return f"the VAE is a {vae.get('_class_name')} with {channels} channels, an AutoencoderKL with {wanted.channels} is wanted"
    factor, scale = 2 ** (len(vae.get("block_out_channels", ())) - 1), vae.get("scaling_factor", wanted.scale)
    if (factor, scale) != (wanted.factor, wanted.scale):
        return f"the VAE's factor and scale are {factor} and {scale}, {wanted.factor} and {wanted.scale} are wanted"
    return None


def load(ref: WeightsRef, dtype: torch.dtype) -> nn.Module:
    """Load the U-Net, the text encoder or the VAE of a file or a diffusers folder."""
    root = Path(ref.source)
    if ref.part == "unet":
        return load_unet(ref, dtype)
    if ref.part == "vae":
        return load_vae(ref, dtype)
    if ref.part != "text":
        raise ValueError(f"weights: part unet, text or vae is wanted, {ref.part!r} given")
    if root.is_dir():
        return load_tower_folder(root, "", dtype, name="l", layer=-1, norm=True)
    part = find_text(open_tensors(root))[0]
    # 2.x was trained on the states before the last layer; diffusers' folders leave that layer out instead
    layer = -2 if part.structure.name == "h" and part.structure.layers != 23 else -1
    return load_tower(part, dtype, layer=layer, norm=True)


def added(unet: Module, told: object, rows: int, height: int, width: int) -> dict[str, Tensor]:
    """Nothing."""
    return {}
