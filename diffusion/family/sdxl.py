"""Stable Diffusion XL, base and refiner: two text encoders (the refiner has the second alone), and a U-Net that is told sizes.

Podell et al. 2023.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusion.batch import repeat_to
from diffusion.family import LatentFormat
from diffusion.family.autoencoder import decode, encode
from diffusion.family.parts import find_text, load_tower, load_tower_folder, load_unet, load_vae
from diffusion.family.sd1 import vae_mismatch
from diffusion.family.text import TextEncoders
from diffusion.family.unet import blocks, inputs, plain, predict, sites, sizes, working_bytes
from diffusion.files import open_tensors
from diffusion.values import Cond, Size, WeightsRef

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

latent = LatentFormat("sdxl", scale=0.13025, channels=4, factor=8)
GOOD, BAD = 6.0, 2.5  # the refiner's aesthetic scores where none is given: of what is wanted, and of the negative branch


def mismatch(configs: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Why a diffusers folder is not of this family; None when it is."""
    unet, second = configs["unet"], configs.get("text_encoder_2")
    if unet.get("_class_name") != "UNet2DConditionModel":
        return f"the denoiser is a {unet.get('_class_name')}, a UNet2DConditionModel is wanted"
    if unet.get("addition_embed_type") != "text_time":
        return "the U-Net is not told sizes (addition_embed_type text_time is wanted)"
    if second is None:
        return "text_encoder_2 is wanted, not found"
    width = second["hidden_size"] + configs.get("text_encoder", {}).get("hidden_size", 0)
    if unet.get("cross_attention_dim") != width:
        return f"the U-Net reads text of width {unet.get('cross_attention_dim')}, the text encoders make {width}"
    return vae_mismatch(configs["vae"], latent)


def load(ref: WeightsRef, dtype: torch.dtype) -> nn.Module:
    """Load the U-Net, the text encoders or the VAE of a file or a diffusers folder."""
    root = Path(ref.source)
    if ref.part == "unet":
        return load_unet(ref, dtype)
    if ref.part == "vae":
        return load_vae(ref, dtype)
    if ref.part != "text":
        raise ValueError(f"weights: part unet, text or vae is wanted, {ref.part!r} given")
    if root.is_dir():
        g = load_tower_folder(root, "_2", dtype, name="g", layer=-2, norm=False)
        if not (root / "text_encoder").is_dir():
            return g
        return TextEncoders(load_tower_folder(root, "", dtype, name="l", layer=-2, norm=False), g)
    parts = [part for source in (ref.source, *ref.beside) for part in find_text(open_tensors(Path(source)))]
    parts.sort(key=lambda part: "lhg".index(part.structure.name))
    towers = [load_tower(part, dtype, layer=-2, norm=False) for part in parts]
    return TextEncoders(*towers) if len(towers) == 2 else towers[0]


def added(unet: Module, told: Sequence[tuple[str, Cond]], rows: int, height: int, width: int) -> dict[str, Tensor]:
    """The pooled text [n, d] and what numbers the U-Net is told [n, 6 or 5]: height, width, crop and target size, or an aesthetic score.

    Raises ValueError for an entry without a pooled vector of the right width.
    """
    vector = unet.config.projection_class_embeddings_input_dim
    each = unet.config.addition_time_embed_dim
    pooled, numbers = [], []
    for branch, entry in told:
        if entry.pooled is None:
            raise ValueError("conditioning: a pooled text vector is wanted by this model, none given; encode with its own CLIP")
        count, rest = divmod(vector - entry.pooled.shape[-1], each)
        if rest or count not in (5, 6):
            wide = vector - each * (6 if unet.config.cross_attention_dim != vector - 5 * each else 5)
            raise ValueError(f"conditioning: a pooled vector of width {wide} is wanted by this model, {entry.pooled.shape[-1]} given")
        pooled.append(repeat_to(entry.pooled, rows))
        row = _numbers(entry.size or Size(), branch, height * latent.factor, width * latent.factor, count)
        numbers.append(torch.tensor([row], dtype=torch.float32).expand(rows, -1))
    return {"text_embeds": torch.cat(pooled).to(unet.conv_in.weight.dtype), "time_ids": torch.cat(numbers)}


def _numbers(size: Size, branch: str, height: int, width: int, count: int) -> list[float]:
    height, width = size.height or height, size.width or width
    if count == 5:
        score = (BAD if branch == "negative" else GOOD) if size.aesthetic is None else size.aesthetic
        return [height, width, size.crop_h, size.crop_w, score]
    target_height = height if size.target_height is None else size.target_height
    target_width = width if size.target_width is None else size.target_width
    return [height, width, size.crop_h, size.crop_w, target_height, target_width]
