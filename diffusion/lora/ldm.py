"""Names of a U-Net's modules in the original (LDM, SGM) code, derived from the names that diffusers gives them."""

from __future__ import annotations

import re
from collections.abc import Iterable

_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def ldm_names(modules: Iterable[str]) -> dict[str, str]:
    """The original name of each module (`down_blocks.0.attentions.0.proj_in` → `input_blocks.1.1.proj_in`); others are left out."""
    modules = list(modules)
    blocks = _blocks(modules)
    names = {}
    for module in modules:
        if module in _ENDS:
            names[module] = _ENDS[module]
            continue
        match = re.match(r"(?:(?:down|up)_blocks\.\d+|mid_block)\.(resnets|attentions|downsamplers|upsamplers)\.\d+", module)
        if match is None or match[0] not in blocks:
            continue
        inner = module[len(match[0]) + 1 :]
        if match[1] == "resnets":
            inner = _RESNET.get(inner, inner)
        elif match[1] == "downsamplers":
            inner = "op"  # a convolution in both, called `conv` by diffusers
        names[module] = f"{blocks[match[0]]}.{inner}" if inner else blocks[match[0]]
    return names


def _blocks(modules: list[str]) -> dict[str, str]:
    """Input blocks: the first convolution, then each resnet (with its transformer) and each downsampler; output blocks: each resnet."""
    found = dict.fromkeys(m[0] for m in (re.match(r"(?:\w+_blocks\.\d+|mid_block)\.\w+\.\d+", module) for module in modules) if m)
    names = {"mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1", "mid_block.resnets.1": "middle_block.2"}
    count = 1
    for level in range(_count(found, r"down_blocks\.(\d+)\.")):
        for j in range(_count(found, rf"down_blocks\.{level}\.resnets\.(\d+)")):
            names[f"down_blocks.{level}.resnets.{j}"] = f"input_blocks.{count}.0"
            names[f"down_blocks.{level}.attentions.{j}"] = f"input_blocks.{count}.1"
            count += 1
        if f"down_blocks.{level}.downsamplers.0" in found:
            names[f"down_blocks.{level}.downsamplers.0"] = f"input_blocks.{count}.0"
            count += 1
    count = 0
    for level in range(_count(found, r"up_blocks\.(\d+)\.")):
        resnets = _count(found, rf"up_blocks\.{level}\.resnets\.(\d+)")
        for j in range(resnets):
            names[f"up_blocks.{level}.resnets.{j}"] = f"output_blocks.{count}.0"
            names[f"up_blocks.{level}.attentions.{j}"] = f"output_blocks.{count}.1"
            if j == resnets - 1:
                place = 2 if f"up_blocks.{level}.attentions.{j}" in found else 1
                names[f"up_blocks.{level}.upsamplers.0"] = f"output_blocks.{count}.{place}"
            count += 1
    return names


def _count(found: Iterable[str], pattern: str) -> int:
    return 1 + max((int(match[1]) for match in (re.match(pattern, name) for name in found) if match), default=-1)
