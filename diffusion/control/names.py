"""ControlNet weights under one set of names, diffusers', whatever layout the file has, and the architecture that their shapes tell."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

PREFIX = "control_model."  # in files that hold a whole checkpoint
_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_FIXED = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "middle_block_out.0": "controlnet_mid_block",
    "middle_block.1": "mid_block.attentions.0",
}
Shapes = Mapping[str, tuple[int, ...]]


def renamed(names: Iterable[str]) -> dict[str, str]:
    """From the names in a file to diffusers' names; those that are not of a ControlNet are left out.

    Original layout: Zhang et al. 2023, ControlNet's cldm; a file in diffusers' own layout keeps its names.
    """
    known = list(names)
    if any(name.startswith(PREFIX) for name in known):
        bare = {name: name.removeprefix(PREFIX) for name in known if name.startswith(PREFIX)}
    else:
        bare = {name: name for name in known}
    if not any(re.match(r"input_blocks\.|zero_convs\.", name) for name in bare.values()):
        return bare
    places = _places(bare.values())
    last = max((int(m[1]) for m in (re.match(r"input_hint_block\.(\d+)\.", name) for name in bare.values()) if m), default=0)
    found = {old: _renamed(name, places, last) for old, name in bare.items()}
    return {old: new for old, new in found.items() if new is not None}


def _places(names: Iterable[str]) -> dict[int, tuple[int, int]]:
    """Level and layer of each input block after the first; a block with `op` downsamples and ends its level."""
    kinds: dict[int, bool] = {}
    for name in names:
        if match := re.match(r"input_blocks\.(\d+)\.0\.(op)?", name):
            kinds[int(match[1])] = kinds.get(int(match[1]), False) or match[2] is not None
    places, level, layer = {}, 0, 0
    for number in sorted(kinds)[1:]:
        places[number] = (level, layer)
        level, layer = (level + 1, 0) if kinds[number] else (level, layer + 1)
    return places


def _renamed(name: str, places: Mapping[int, tuple[int, int]], last_hint: int) -> str | None:
    for old, new in _FIXED.items():
        if name.startswith(old + "."):
            return new + name[len(old) :]
    if match := re.match(r"input_hint_block\.(\d+)\.(weight|bias|up|down)$", name):
        number = int(match[1]) // 2
        place = "conv_in" if number == 0 else "conv_out" if int(match[1]) == last_hint else f"blocks.{number - 1}"
        return f"controlnet_cond_embedding.{place}.{match[2]}"
    if match := re.match(r"zero_convs\.(\d+)\.0\.(weight|bias|up|down)$", name):
        return f"controlnet_down_blocks.{match[1]}.{match[2]}"
    if match := re.match(r"middle_block\.(0|2)\.(.+)\.(weight|bias|up|down)$", name):
        return f"mid_block.resnets.{int(match[1]) // 2}.{_RESNET.get(match[2], match[2])}.{match[3]}"
    if match := re.match(r"input_blocks\.(\d+)\.(0|1)\.(.+)$", name):
        if int(match[1]) not in places:
            return None
        level, layer = places[int(match[1])]
        if match[2] == "1":
            return f"down_blocks.{level}.attentions.{layer}.{match[3]}"
        if match[3].startswith("op."):
            return f"down_blocks.{level}.downsamplers.0.conv.{match[3][3:]}"
        inner, _, kind = match[3].rpartition(".")
        return f"down_blocks.{level}.resnets.{layer}.{_RESNET.get(inner, inner)}.{kind}"
    return name if name.split(".")[0] in ("task_embedding", "transformer_layes", "spatial_ch_projs", "control_add_embedding") else None


def shapes_of(tensors: Mapping[str, Tensor]) -> Shapes:
    """The shapes of tensors by name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def config_of(shapes: Shapes) -> dict[str, Any]:
    """The configuration of diffusers' ControlNetModel that weights with these shapes, under diffusers' names, belong to.

    Shapes do not tell the number of attention heads: 8 where the text is 768 wide (SD 1), else one for 64 channels (SD 2, SDXL).
    Raises ValueError where they are not a ControlNet's.
    """
    wanted = (
        "conv_in.weight",
        "controlnet_cond_embedding.conv_in.weight",
        "controlnet_mid_block.weight",
        "mid_block.resnets.0.conv1.weight",
        "time_embedding.linear_1.weight",
    )
    if missing := [name for name in wanted if name not in shapes]:
        raise ValueError(f"no ControlNet: {', '.join(missing)} missing among {len(shapes)} weights ({', '.join(list(shapes)[:5])})")
    levels = 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("down_blocks."))
    channels = [shapes[f"down_blocks.{i}.resnets.0.conv1.weight"][0] for i in range(levels)]
    depths = [_count(shapes, f"down_blocks.{i}.attentions.0.transformer_blocks.") for i in range(levels)]
    middle = _count(shapes, "mid_block.attentions.0.transformer_blocks.")
    texts = [shape[1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight")]
    added = shapes.get("add_embedding.linear_1.weight")
    if not texts and added is None:
        raise ValueError("no ControlNet: it attends to no text, as only small ones of SDXL do")
    hint = [shapes["controlnet_cond_embedding.conv_in.weight"][0]]
    for i in range(1, _count(shapes, "controlnet_cond_embedding.blocks."), 2):
        hint.append(shapes[f"controlnet_cond_embedding.blocks.{i}.weight"][0])
    proj = [shape for name, shape in shapes.items() if name.endswith("proj_in.weight")]
    if added is not None:
        # one number a level; a level without attention does not use its own, the middle uses the last
        depths = [depth or 1 for depth in depths[:-1]] + [depths[-1] or middle]
    return {
        "in_channels": shapes["conv_in.weight"][1],
        "conditioning_channels": shapes["controlnet_cond_embedding.conv_in.weight"][1],
        "conditioning_embedding_out_channels": tuple(hint),
        "block_out_channels": tuple(channels),
        "down_block_types": tuple(
            "CrossAttnDownBlock2D" if _count(shapes, f"down_blocks.{i}.attentions.") else "DownBlock2D" for i in range(levels)
        ),
        "mid_block_type": "UNetMidBlock2DCrossAttn" if _count(shapes, "mid_block.attentions.") else "UNetMidBlock2D",
        "layers_per_block": _count(shapes, "down_blocks.0.resnets."),
        "cross_attention_dim": texts[0] if texts else 2048,
        "attention_head_dim": 8 if texts[:1] == [768] else tuple(max(1, c // 64) for c in channels),
        "transformer_layers_per_block": 1 if added is None else tuple(depths),
        "use_linear_projection": all(len(shape) == 2 for shape in proj),
        "addition_embed_type": None if added is None else "text_time",
        "addition_time_embed_dim": None if added is None else 256,
        "projection_class_embeddings_input_dim": None if added is None else added[1],
    }


def _count(shapes: Shapes, prefix: str) -> int:
    return 1 + max((int(name[len(prefix) :].split(".")[0]) for name in shapes if name.startswith(prefix)), default=-1)
