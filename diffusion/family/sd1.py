"""Stable Diffusion 1.x and what has its shape (2.x, the toybox model): a U-Net with cross-attention to one CLIP text encoder.

Rombach et al. 2022.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from diffusion.family import LatentFormat
from diffusion.loading import fill, modern_vae_names, read_json, read_tensors
from diffusion.patch import Block, Residuals, Site
from diffusion.values import WeightsRef

Module = Any  # diffusers declares no types

latent = LatentFormat("sd1", scale=0.18215, channels=4, factor=8)


def mismatch(configs: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Why a diffusers folder is not of this family; None when it is."""
    unet, text, vae = configs["unet"], configs["text_encoder"], configs["vae"]
    channels = vae.get("latent_channels", latent.channels)
    if unet.get("_class_name") != "UNet2DConditionModel":
        return f"the denoiser is a {unet.get('_class_name')}, a UNet2DConditionModel is wanted"
    if unet.get("addition_embed_type") is not None:
        return f"the U-Net wants {unet['addition_embed_type']} embeddings beside the text"
    if "CLIPTextModel" not in text.get("architectures", ()):
        return f"the text encoder is a {text.get('architectures')}, a CLIPTextModel is wanted"
    if unet.get("cross_attention_dim") != text.get("hidden_size"):
        return f"the U-Net reads text of width {unet.get('cross_attention_dim')}, the text encoder makes {text.get('hidden_size')}"
    if vae.get("_class_name") != "AutoencoderKL" or channels != latent.channels:
        return f"the VAE is a {vae.get('_class_name')} with {channels} channels, an AutoencoderKL with {latent.channels} is wanted"
    factor, scale = 2 ** (len(vae.get("block_out_channels", ())) - 1), vae.get("scaling_factor", latent.scale)
    if (factor, scale) != (latent.factor, latent.scale):
        return f"the VAE's factor and scale are {factor} and {scale}, {latent.factor} and {latent.scale} are wanted"
    return None


# -- loading --

# each CJK ideograph is a word of its own, as in the tokenizer that ComfyUI's pictures were made with
_IDEOGRAPH = re.compile("([\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002a6df\U0002a700-\U0002ceaf\U0002f800-\U0002fa1f])")


class TextEncoder(nn.Module):
    """A CLIP text encoder with its tokenizer."""

    def __init__(self, model: CLIPTextModel, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.model = model
        self._split = tokenizer.backend_tokenizer
        self._split.no_truncation()
        self._split.no_padding()
        self.length = min(tokenizer.model_max_length, model.config.max_position_embeddings)
        self.bos, self.eos, self.pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id

    def split(self, text: str) -> list[tuple[int, tuple[int, int]]]:
        """Token ids of a text without special tokens, each with the characters it covers."""
        tokens, start = [], 0
        for piece in _IDEOGRAPH.split(text):
            encoding = self._split.encode(piece, add_special_tokens=False)
            tokens += [(id, (start + a, start + b)) for id, (a, b) in zip(encoding.ids, encoding.offsets, strict=True)]
            start += len(piece)
        return tokens

    def forward(self, ids: Tensor, last_layer: int | None = None) -> tuple[Tensor, Tensor]:
        """Hidden states [k, n, d] after `last_layer` (-1: the last) and the final norm, and pooled vectors [k, d] of ids [k, n].

        The pooled vector is always the last layer's at the first end token.
        """
        layers = self.model.encoder.layers
        stop = last_layer or -1
        if not 1 <= -stop <= len(layers):
            warnings.warn(f"the text encoder has {len(layers)} layers; stopping at {stop} is not possible, the last is used", stacklevel=2)
            stop = -1
        embeddings, n = self.model.embeddings, ids.shape[1]
        h = embeddings.token_embedding(ids) + embeddings.position_embedding.weight[:n]
        causal = torch.full((n, n), float("-inf"), dtype=h.dtype, device=h.device).triu(1)[None, None]
        chosen = h
        for i, layer in enumerate(layers):
            h = layer(h, causal)
            if i == len(layers) + stop:
                chosen = h
        norm = self.model.final_layer_norm
        end = (ids == self.eos).int().argmax(dim=1)
        return norm(chosen), norm(h)[torch.arange(len(ids), device=ids.device), end]


def load(ref: WeightsRef, dtype: torch.dtype) -> nn.Module:
    """Load the U-Net, the text encoder or the VAE of a diffusers folder."""
    root = Path(ref.source)
    if ref.part == "unet":
        with torch.device("meta"):  # no random initialisation: it would cost time and move the global random state
            unet = UNet2DConditionModel.from_config(read_json(root / "unet" / "config.json"))
        return fill(unet, read_tensors(root / "unet"), dtype, root / "unet")
    if ref.part == "vae":
        with torch.device("meta"):
            vae = AutoencoderKL.from_config(read_json(root / "vae" / "config.json"))
        return fill(vae, modern_vae_names(read_tensors(root / "vae")), dtype, root / "vae")
    if ref.part == "text":
        config = CLIPTextConfig(**read_json(root / "text_encoder" / "config.json"))
        with torch.device("meta"):
            text = CLIPTextModel(config)
        text.embeddings.position_ids = torch.arange(config.max_position_embeddings)[None]  # not part of the weights
        tensors = {name.removeprefix("text_model."): tensor for name, tensor in read_tensors(root / "text_encoder").items()}
        tensors.pop("embeddings.position_ids", None)
        fill(text, tensors, dtype, root / "text_encoder")
        return TextEncoder(text, CLIPTokenizer.from_pretrained(root / "tokenizer", local_files_only=True))
    raise ValueError(f"weights: part unet, text or vae is wanted, {ref.part!r} given")


# -- the U-Net's places --


def sites(unet: Module) -> list[tuple[Site, nn.Module]]:
    """The attention modules in order of execution."""
    found: list[tuple[Site, nn.Module]] = []
    for place, number, scale, path, block in _levels(unet):
        for i, transformer in enumerate(getattr(block, "attentions", ())):
            for j, layer in enumerate(transformer.transformer_blocks):
                for name in ("attn1", "attn2"):
                    full = f"{path}.attentions.{i}.transformer_blocks.{j}.{name}"
                    found.append((Site(full, place, number, len(found), name == "attn2", scale), getattr(layer, name)))
    return found


def blocks(unet: Module) -> list[tuple[Block, nn.Module]]:
    """Convolutions at both ends, resnets, transformers and samplers in order of execution."""
    found: list[tuple[Block, nn.Module]] = []

    def add(name: str, kind: str, place: str, number: int, scale: int, module: nn.Module, split: int | None = None) -> None:
        found.append((Block(name, kind, place, number, len(found), scale, split), module))

    add("in.conv", "conv", "in", 0, 1, unet.conv_in)
    skips = [unet.conv_in.out_channels]
    for place, number, scale, _, block in _levels(unet):
        prefix = place if place == "mid" else f"{place}.{number}"
        attentions = list(getattr(block, "attentions", ()))
        for i, resnet in enumerate(block.resnets):
            split = resnet.in_channels - skips.pop() if place == "up" else None
            add(f"{prefix}.resnet.{i}", "resnet", place, number, scale, resnet, split)
            if place == "down":
                skips.append(resnet.out_channels)
            if i < len(attentions):  # the middle has one resnet more than transformers
                add(f"{prefix}.attention.{i}", "attention", place, number, scale, attentions[i])
        for sampler in [*(getattr(block, "downsamplers", None) or ()), *(getattr(block, "upsamplers", None) or ())]:
            add(f"{prefix}.sampler", "sampler", place, number, scale, sampler)
            if place == "down":
                skips.append(sampler.out_channels)
    add("out.conv", "conv", "out", 0, 1, unet.conv_out)
    return found


def _levels(unet: Module) -> list[tuple[str, int, int, str, Module]]:
    deepest = len(unet.down_blocks) - 1
    down = [("down", i, 2**i, f"down_blocks.{i}", block) for i, block in enumerate(unet.down_blocks)]
    up = [("up", i, 2 ** (deepest - i), f"up_blocks.{i}", block) for i, block in enumerate(unet.up_blocks)]
    return [*down, ("mid", 0, 2**deepest, "mid_block", unet.mid_block), *up]


def sizes(unet: Module, height: int, width: int) -> dict[int, tuple[int, int]]:
    """Height and width of the features by their scale; every downsampling rounds up."""
    return {2**i: (-(-height // 2**i), -(-width // 2**i)) for i in range(len(unet.down_blocks))}


# -- running --


def inputs(unet: Module) -> int:
    """How many channels the network takes."""
    return int(unet.config.in_channels)


def added(unet: Module, told: object, rows: int, height: int, width: int) -> dict[str, Tensor]:
    """Nothing."""
    return {}


def predict(unet: Module, x: Tensor, t: Tensor, context: Tensor, residuals: Residuals | None, added: Mapping[str, Tensor] = {}) -> Tensor:
    """The raw output [rows, c, h, w]."""
    extra: dict[str, Any] = {}
    if residuals is not None:
        if residuals.down or residuals.mid is not None:
            wanted = sum(len(b.resnets) + len(b.downsamplers or ()) for b in unet.down_blocks) + 1
            if residuals.down and len(residuals.down) != wanted:
                raise ValueError(f"residuals: {wanted} for the skip connections are wanted, {len(residuals.down)} given")
            zero = x.new_zeros(())
            extra["down_block_additional_residuals"] = residuals.down or (zero,) * wanted
            extra["mid_block_additional_residual"] = zero if residuals.mid is None else residuals.mid
        if residuals.intra:
            extra["down_intrablock_additional_residuals"] = list(residuals.intra)
    raw: Tensor = unet(x, t, encoder_hidden_states=context, return_dict=False, **extra)[0]
    return raw


def working_bytes(unet: Module, rows: int, height: int, width: int) -> int:
    """About how much memory one evaluation needs beside the weights: some two dozen feature maps of the widest level at full size."""
    widest: int = max(unet.config.block_out_channels)
    return 24 * rows * height * width * widest * int(unet.dtype.itemsize)


def encode(vae: Module, pixels: Tensor) -> Tensor:
    """The mode of the posterior, unscaled."""
    mode: Tensor = vae.encode(pixels.to(vae.dtype)).latent_dist.mode()
    return mode.float()


def decode(vae: Module, x: Tensor) -> Tensor:
    """Pixels, about -1 to 1."""
    pixels: Tensor = vae.decode(x.to(vae.dtype), return_dict=False)[0]
    return pixels.float()
