"""A model's parts as one set of weights with the original code's names, as checkpoint files have them; patches of the weights included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from diffusion.family.layout import text_to_open_clip, vae_config, vae_to_original
from diffusion.family.structure import read_diffusers, renamed
from diffusion.family.text import TextEncoder

Module = Any  # diffusers and transformers declare no types
_HALVES = (torch.float16, torch.bfloat16)


def unet_tensors(unet: Module) -> dict[str, Tensor]:
    """A U-Net's weights, with prefix. Raises ValueError for one that the original names cannot tell."""
    tensors = _lossless(unet.state_dict())
    structure = read_diffusers(_shapes(tensors))
    for name, value in structure.config().items():
        have = unet.config.get(name)
        if name == "attention_head_dim":
            heads = (have,) * len(structure.channels) if isinstance(have, int) else tuple(have)
            _same("U-Net's heads", heads, structure.heads)
        elif name == "block_out_channels":
            _same("U-Net's channels", tuple(have), tuple(value))
    _same("U-Net's normalisation groups", unet.config.norm_num_groups, 32)
    back = {new: old for old, new in structure.names().items()}
    return {f"model.diffusion_model.{old}": tensors[new] for new, old in renamed(tensors, back).items()}


def vae_tensors(vae: Module, prefix: str = "first_stage_model.") -> dict[str, Tensor]:
    """A VAE's weights. Raises ValueError for one that the original names cannot tell."""
    if not isinstance(vae, AutoencoderKL):
        raise ValueError(f"the VAE is a {type(vae).__name__}; only the full VAE of a model can be written")
    tensors = _lossless(vae.state_dict())
    _same("VAE's normalisation groups", vae.config.norm_num_groups, 32)
    return {prefix + name: tensor for name, tensor in vae_to_original(tensors, vae_config(_shapes(tensors))).items()}


def text_tensors(part: Module, family: str) -> dict[str, Tensor]:
    """The text encoders' weights, with the prefixes of a checkpoint of this family. Raises ValueError where it is not CLIP's tokenizer."""
    found: dict[str, Tensor] = {}
    for tower in part.towers:
        tensors = tower_tensors(tower)
        if family == "sd1" and tower.name == "l":
            prefix, named = "cond_stage_model.transformer.text_model.", tensors
        elif family == "sd1":
            prefix, named = "cond_stage_model.model.", text_to_open_clip(tensors, _layers(tensors))
        elif tower.name == "l":
            prefix, named = "conditioner.embedders.0.transformer.text_model.", tensors
        else:
            number = len(part.towers) - 1  # the refiner's only one is number 0
            prefix, named = f"conditioner.embedders.{number}.model.", text_to_open_clip(tensors, _layers(tensors))
        found |= {prefix + name: tensor for name, tensor in named.items()}
    return found


def tower_tensors(tower: TextEncoder) -> dict[str, Tensor]:
    """A text encoder's weights with transformers' names. Raises ValueError where it is not CLIP's tokenizer."""
    config = tower.model.config
    _same("text encoder's vocabulary", config.vocab_size, 49408)
    _same("text encoder's heads", config.num_attention_heads, max(1, config.hidden_size // 64))
    _same("text encoder's activation", config.hidden_act, "quick_gelu" if tower.name == "l" else "gelu")
    tensors = _lossless(tower.model.state_dict())
    if tower.left_out:  # files have that layer, and are read that way
        tensors |= _layer_of_zeros(tensors, len(tower.model.encoder.layers))
    return tensors


def _layers(tensors: Mapping[str, Tensor]) -> int:
    return sum(name.endswith(".layer_norm1.weight") for name in tensors)


def _layer_of_zeros(tensors: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
    """One more layer of a text encoder that hands on what it gets: both its residual branches are zero."""
    last, new = (f"encoder.layers.{i}." for i in (number - 1, number))
    return {new + name.removeprefix(last): torch.zeros_like(tensor) for name, tensor in tensors.items() if name.startswith(last)}


def _same(what: str, have: object, wanted: object) -> None:
    if have != wanted:
        raise ValueError(
            f"this model cannot be written as a single file: its {what}, {have}, cannot be told from the weights ({wanted} would)"
        )


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _lossless(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights in half precision where none of them loses anything by it, as those that were read from such a file."""
    floats = {name: tensor.cpu() for name, tensor in tensors.items() if tensor.is_floating_point()}
    for dtype in _HALVES:
        if all(torch.equal(tensor.to(dtype).to(tensor.dtype), tensor) for tensor in floats.values()):
            return {name: tensor.to(dtype) for name, tensor in floats.items()}
    return {name: tensor.float() for name, tensor in floats.items()}


__all__ = ["text_tensors", "tower_tensors", "unet_tensors", "vae_tensors"]
