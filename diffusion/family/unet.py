"""Stable Diffusion's U-Net as diffusers builds it: its places by name, and how it is run.

Rombach et al. 2022, Podell et al. 2023.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from diffusion.patch import Block, Residuals, Site

Module = Any  # diffusers declares no types

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
    middle = [("mid", 0, 2**deepest, "mid_block", unet.mid_block)] if unet.mid_block is not None else []  # distilled networks have none
    return [*down, *middle, *up]


def sizes(unet: Module, height: int, width: int) -> dict[int, tuple[int, int]]:
    """Height and width of the features by their scale; every downsampling rounds up."""
    return {2**i: (-(-height // 2**i), -(-width // 2**i)) for i in range(len(unet.down_blocks))}


def plain(unet: Module) -> list[nn.Module]:
    """The modules without attention inside, which compute by themselves: resnets, samplers, the transformers' feed-forward networks."""
    alone = [module for block, module in blocks(unet) if block.kind in ("resnet", "sampler")]
    owners = [unet.get_submodule(site.name.rpartition(".")[0]) for site, _ in sites(unet) if not site.cross]
    return alone + [layer.ff for layer in owners]


# -- running --


def inputs(unet: Module) -> int:
    """How many channels the network takes; a patch may have changed it, so the weight tells and not the configuration."""
    return int(unet.conv_in.weight.shape[1])


def predict(unet: Module, x: Tensor, t: Tensor, context: Tensor, residuals: Residuals | None, added: Mapping[str, Tensor]) -> Tensor:
    """The raw output [rows, c, h, w]."""
    wide = unet.config.cross_attention_dim
    if context.shape[-1] != wide:
        raise ValueError(f"conditioning: text of width {wide} is wanted by this model, {context.shape[-1]} given; encode with its own CLIP")
    extra: dict[str, Any] = {"added_cond_kwargs": dict(added)} if added else {}
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
    return 24 * rows * height * width * widest * int(unet.conv_in.weight.dtype.itemsize)  # unet.dtype would walk all modules
