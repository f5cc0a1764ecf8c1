"""The original code's names of a VAE's and of text encoders' weights, and the same weights under diffusers' and transformers' names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diffusion.family.structure import Shapes, renamed

# -- the VAE --

_VAE_RESNET = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2", "nin_shortcut": "conv_shortcut"}
_VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_VAE_LINEAR = re.compile(r"attentions\.\d+\.to_(q|k|v|out\.0)\.weight")  # 1 × 1 convolutions in the original


def is_original_vae(shapes: Shapes) -> bool:
    """Whether these are a VAE's weights with original names."""
    return any(key.startswith(("encoder.down.", "decoder.up.")) for key in shapes)


def vae_config(shapes: Shapes) -> dict[str, Any]:
    """The configuration of diffusers' AutoencoderKL. Raises ValueError, naming it, where a weight that tells is missing."""
    level, block = ("encoder.down.{}", "block.{}") if is_original_vae(shapes) else ("encoder.down_blocks.{}", "resnets.{}")
    levels = _count(shapes, level)
    channels = tuple(_size(shapes, 0, *(f"{level.format(i)}.{block.format(0)}.{c}" for c in _WIDE)) for i in range(levels))
    latent = _size(shapes, 1, "decoder.conv_in.weight", "post_quant_conv.weight")
    return {
        "_class_name": "AutoencoderKL",
        "block_out_channels": channels,
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "layers_per_block": _count(shapes, f"{level.format(0)}.{block}"),
        "latent_channels": latent,
        "use_quant_conv": "quant_conv.weight" in shapes or "quant_conv.bias" in shapes,
        "use_post_quant_conv": "post_quant_conv.weight" in shapes or "post_quant_conv.bias" in shapes,
    }


_WIDE = ("conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias", "norm2.bias")


def vae_names(config: Mapping[str, Any]) -> dict[str, str]:
    """Modules' original names -> diffusers' names."""
    levels, blocks = len(config["block_out_channels"]), config["layers_per_block"]
    found = {f"{side}.{name}": f"{side}.{name}" for side in ("encoder", "decoder") for name in ("conv_in", "conv_out")}
    found |= {name: name for name in ("quant_conv", "post_quant_conv")}
    found |= {f"{side}.norm_out": f"{side}.conv_norm_out" for side in ("encoder", "decoder")}

    def resnet(old: str, new: str) -> None:
        found.update({f"{old}.{a}": f"{new}.{b}" for a, b in _VAE_RESNET.items()})

    for side in ("encoder", "decoder"):
        resnet(f"{side}.mid.block_1", f"{side}.mid_block.resnets.0")
        resnet(f"{side}.mid.block_2", f"{side}.mid_block.resnets.1")
        found.update({f"{side}.mid.attn_1.{a}": f"{side}.mid_block.attentions.0.{b}" for a, b in _VAE_ATTENTION.items()})
    for i in range(levels):
        for j in range(blocks):
            resnet(f"encoder.down.{i}.block.{j}", f"encoder.down_blocks.{i}.resnets.{j}")
        for j in range(blocks + 1):  # the original counts the decoder's levels from the picture, diffusers from the latent
            resnet(f"decoder.up.{levels - 1 - i}.block.{j}", f"decoder.up_blocks.{i}.resnets.{j}")
        if i + 1 < levels:
            found[f"encoder.down.{i}.downsample.conv"] = f"encoder.down_blocks.{i}.downsamplers.0.conv"
            found[f"decoder.up.{levels - 1 - i}.upsample.conv"] = f"decoder.up_blocks.{i}.upsamplers.0.conv"
    return found


_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def modern_vae_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """VAE weights under today's names; diffusers before 0.17 called the attention projections query, key, value and proj_attn."""
    pattern = re.compile(r"(attentions\.\d+)\.(query|key|value|proj_attn)\.")
    return {pattern.sub(lambda m: f"{m[1]}.{_OLD_ATTENTION[m[2]]}.", name): tensor for name, tensor in tensors.items()}


def vae_to_diffusers(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """A VAE's weights, with original names or diffusers', as diffusers has them; others are left out."""
    if is_original_vae({name: tuple(tensor.shape) for name, tensor in tensors.items()}):
        named = {new: tensors[old] for old, new in renamed(tensors, vae_names(config)).items()}
    else:
        named = {
            name: t for name, t in modern_vae_names(tensors).items() if name.startswith(("encoder.", "decoder.", "quant_", "post_quant_"))
        }
    return {name: t[:, :, 0, 0] if t.ndim == 4 and _VAE_LINEAR.search(name) else t for name, t in named.items()}


def vae_to_original(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """A VAE's weights with original names and shapes."""
    back = {new: old for old, new in vae_names(config).items()}
    shaped = {name: t[:, :, None, None] if _VAE_LINEAR.search(name) else t for name, t in tensors.items()}
    return {old: shaped[new] for new, old in renamed(shaped, back).items()}


# -- text encoders --

_OPEN_CLIP = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
_IN_PROJ = re.compile(r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)")


def is_open_clip(shapes: Shapes) -> bool:
    """Whether these are a text encoder's weights with OpenCLIP's names."""
    return any(key.startswith("transformer.resblocks.") for key in shapes)


def open_clip_names(layers: int) -> dict[str, str]:
    """Modules' names in OpenCLIP -> names in transformers."""
    found = {"token_embedding": "embeddings.token_embedding", "ln_final": "final_layer_norm"}
    for i in range(layers):
        found |= {f"transformer.resblocks.{i}.{a}": f"encoder.layers.{i}.{b}" for a, b in _OPEN_CLIP.items()}
    return found


def text_to_transformers(tensors: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """A text encoder's weights, with OpenCLIP's names or transformers', as transformers' CLIPTextModel has them, and text_projection."""
    if not is_open_clip({name: tuple(tensor.shape) for name, tensor in tensors.items()}):
        plain = {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}
        known = (
            "embeddings.token_embedding.",
            "embeddings.position_embedding.",
            "encoder.layers.",
            "final_layer_norm.",
            "text_projection.",
        )
        return {name: tensor for name, tensor in plain.items() if name.startswith(known)}
    found = {new: tensors[old] for old, new in renamed(tensors, open_clip_names(layers)).items()}
    if "positional_embedding" in tensors:
        found["embeddings.position_embedding.weight"] = tensors["positional_embedding"]
    if "text_projection" in tensors:
        found["text_projection.weight"] = tensors["text_projection"].T
    elif "text_projection.weight" in tensors:
        found["text_projection.weight"] = tensors["text_projection.weight"]
    for name, tensor in tensors.items():
        if match := _IN_PROJ.fullmatch(name):
            for x, third in zip("qkv", tensor.chunk(3), strict=True):
                found[f"encoder.layers.{match[1]}.self_attn.{x}_proj.{match[2]}"] = third
    return found


def text_to_open_clip(tensors: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """The weights of a CLIPTextModel with OpenCLIP's names and shapes."""
    back = {new: old for old, new in open_clip_names(layers).items()}
    found = {old: tensors[new] for new, old in renamed(tensors, back).items()}
    found["positional_embedding"] = tensors["embeddings.position_embedding.weight"]
    if "text_projection.weight" in tensors:
        found["text_projection"] = tensors["text_projection.weight"].T
    for i in range(layers):
        for end in ("weight", "bias"):
            thirds = [tensors[f"encoder.layers.{i}.self_attn.{x}_proj.{end}"] for x in "qkv"]
            found[f"transformer.resblocks.{i}.attn.in_proj_{end}"] = torch.cat(thirds)
    return found


# -- counting --


def _count(shapes: Shapes, pattern: str) -> int:
    i = 0
    while any(key.startswith(pattern.format(i) + ".") for key in shapes):
        i += 1
    return i


def _size(shapes: Shapes, axis: int, *names: str) -> int:
    for name in names:
        if name in shapes and len(shapes[name]) > axis:
            return shapes[name][axis]
    raise ValueError(f"{names[0]} is missing")
