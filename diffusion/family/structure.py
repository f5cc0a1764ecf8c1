"""The shape of a Stable Diffusion U-Net, read off the shapes of its weights, and what its modules are called here and in the original code.

Any widths, depths and numbers of levels; original names as in the Latent Diffusion code (input_blocks, middle_block, output_blocks).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]

_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}


@dataclass(frozen=True, slots=True)
class Structure:
    """A U-Net: channels of each level, and for each resnet of each level how many transformer layers follow it (0: none).

    `middle` is 0 where the middle is a resnet alone, and None where there is none (distilled networks: Kim et al. 2023, Gupta et al. 2024).
    """

    channels: tuple[int, ...]
    down: tuple[tuple[int, ...], ...]
    middle: int | None
    up: tuple[tuple[int, ...], ...]  # deepest level first
    inputs: int
    outputs: int
    context: int  # width of the text
    linear: bool  # transformers project with linear layers (2.x, XL) rather than 1 × 1 convolutions (1.x)
    added: int | None  # width of the vector that SDXL is told beside the text

    @property
    def heads(self) -> tuple[int, ...]:
        """Attention heads of each level: 8 in 1.x, one for every 64 channels since."""
        return tuple(c // 64 if self.linear else 8 for c in self.channels)

    def config(self) -> dict[str, Any]:
        """The configuration of diffusers' UNet2DConditionModel. Raises ValueError for a structure that it cannot have."""
        if self.linear and any(c % 64 for c in self.channels):
            raise ValueError(f"U-Net: channels in multiples of 64 are wanted, {self.channels} found")
        if len(set(map(len, self.down))) != 1 or any(len(level) != len(self.down[0]) + 1 for level in self.up):
            raise ValueError("U-Net: the same number of resnets in every level is wanted, and one more on the way up")
        cross_down, cross_up = [any(level) for level in self.down], [any(level) for level in self.up]
        config: dict[str, Any] = {
            "_class_name": "UNet2DConditionModel",
            "in_channels": self.inputs,
            "out_channels": self.outputs,
            "block_out_channels": self.channels,
            "layers_per_block": len(self.down[0]),
            "down_block_types": tuple("CrossAttnDownBlock2D" if cross else "DownBlock2D" for cross in cross_down),
            "up_block_types": tuple("CrossAttnUpBlock2D" if cross else "UpBlock2D" for cross in cross_up),
            "cross_attention_dim": self.context,
            "attention_head_dim": self.heads,  # diffusers' name for the number of heads
            "use_linear_projection": self.linear,
        }
        if any(any(level) and not all(level) for level in (*self.down, *self.up)):
            raise ValueError("U-Net: in each level transformers after every resnet or after none are wanted, after some found")
        depths = {d for level in (*self.down, (self.middle or 0,), *self.up) for d in level if d}
        if len(depths) == 1:
            config["transformer_layers_per_block"] = depths.pop()
        elif depths:
            last = self.down[-1] if cross_down[-1] else (self.middle or 1,)  # the middle takes its depth from the last entry
            if self.middle and last[0] != self.middle:
                raise ValueError(f"U-Net: {self.middle} layers in the middle and {last[0]} in the level above are not known together")
            config["transformer_layers_per_block"] = [list(level) if any(level) else 1 for level in self.down[:-1]] + [list(last)]
            config["reverse_transformer_layers_per_block"] = [list(level) if any(level) else 1 for level in self.up]
        if not self.middle:
            config["mid_block_type"] = None if self.middle is None else "UNetMidBlock2D"
        if self.added is not None:
            config |= {
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 256,
                "projection_class_embeddings_input_dim": self.added,
            }
        return config

    def names(self) -> dict[str, str]:
        """Modules' original names -> diffusers' names."""
        found = dict(_ENDS)
        if self.added is None:
            found = {old: new for old, new in found.items() if not old.startswith("label_emb")}

        def resnet(old: str, new: str) -> None:
            found.update({f"{old}.{a}": f"{new}.{b}" for a, b in _RESNET.items()})

        i = 1
        for level, depths in enumerate(self.down):
            for j, depth in enumerate(depths):
                resnet(f"input_blocks.{i}.0", f"down_blocks.{level}.resnets.{j}")
                if depth:
                    found[f"input_blocks.{i}.1"] = f"down_blocks.{level}.attentions.{j}"
                i += 1
            if level + 1 < len(self.down):
                found[f"input_blocks.{i}.0.op"] = f"down_blocks.{level}.downsamplers.0.conv"
                i += 1
        if self.middle is not None:
            resnet("middle_block.0", "mid_block.resnets.0")
        if self.middle:
            found["middle_block.1"] = "mid_block.attentions.0"
            resnet("middle_block.2", "mid_block.resnets.1")
        i = 0
        for level, depths in enumerate(self.up):
            for j, depth in enumerate(depths):
                resnet(f"output_blocks.{i}.0", f"up_blocks.{level}.resnets.{j}")
                if depth:
                    found[f"output_blocks.{i}.1"] = f"up_blocks.{level}.attentions.{j}"
                if level + 1 < len(self.up) and j + 1 == len(depths):
                    found[f"output_blocks.{i}.{2 if depth else 1}.conv"] = f"up_blocks.{level}.upsamplers.0.conv"
                i += 1
        return found

    def rename(self, key: str) -> str | None:
        """diffusers' name of a weight with an original name; None when it is not known."""
        return _rename(key, self.names())


def renamed(keys: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, str]:
    """Keys -> keys under other module names, by the longest module name that fits; keys without one are left out."""
    return {key: new for key in keys if (new := _rename(key, names)) is not None}


def _rename(key: str, names: Mapping[str, str]) -> str | None:
    module = key
    while module:
        module = module.rpartition(".")[0]
        if module in names:
            return names[module] + key[len(module) :]
    return None


# -- reading --


def read_original(shapes: Shapes) -> Structure:
    """The structure of weights with original names. Raises ValueError, naming it, where a weight that tells is missing."""
    blocks = _children(shapes, "input_blocks")
    levels: list[list[int]] = [[]]
    channels: list[int] = [0]
    for i in blocks[1:]:
        if _has(shapes, f"input_blocks.{i}.0.op"):
            levels.append([])
            channels.append(0)
            continue
        levels[-1].append(_depth(shapes, f"input_blocks.{i}.1"))
        channels[-1] = channels[-1] or _first(shapes, 0, *(f"input_blocks.{i}.0.{name}" for name in _WIDE))
    outs = [_depth(shapes, f"output_blocks.{i}.1") for i in _children(shapes, "output_blocks")]
    per = len(outs) // len(levels)
    up = tuple(tuple(outs[i * per : (i + 1) * per]) for i in range(len(levels)))
    transformer = [f"input_blocks.{i}.1" for i in blocks] + [f"output_blocks.{i}.1" for i in range(len(outs))] + ["middle_block.1"]
    added = _first(shapes, 1, "label_emb.0.0.weight") if _has(shapes, "label_emb") else None
    middle = _depth(shapes, "middle_block.1") if _has(shapes, "middle_block") else None
    return _structure(shapes, transformer, channels, levels, middle, up, "input_blocks.0.0.weight", "out.2.weight", added)


def read_diffusers(shapes: Shapes) -> Structure:
    """The structure of weights with diffusers' names. Raises ValueError, naming it, where a weight that tells is missing."""

    def side(name: str) -> list[list[int]]:
        return [
            [_depth(shapes, f"{name}.{i}.attentions.{j}") for j in _children(shapes, f"{name}.{i}.resnets")]
            for i in _children(shapes, name)
        ]

    down, up = side("down_blocks"), side("up_blocks")
    channels = [
        _first(shapes, 0, *(f"down_blocks.{i}.resnets.0.{_RESNET[n.rpartition('.')[0]]}.{n.rpartition('.')[2]}" for n in _WIDE))
        for i in range(len(down))
    ]
    transformer = [
        f"{n}.{i}.attentions.{j}" for n, s in (("down_blocks", down), ("up_blocks", up)) for i, d in enumerate(s) for j in range(len(d))
    ]
    added = _first(shapes, 1, "add_embedding.linear_1.weight") if _has(shapes, "add_embedding") else None
    return _structure(
        shapes,
        [*transformer, "mid_block.attentions.0"],
        channels,
        down,
        _depth(shapes, "mid_block.attentions.0") if _has(shapes, "mid_block") else None,
        tuple(map(tuple, up)),
        "conv_in.weight",
        "conv_out.weight",
        added,
    )


_WIDE = ("in_layers.2.weight", "in_layers.2.bias", "out_layers.3.weight", "out_layers.3.bias", "emb_layers.1.bias")


def _structure(
    shapes: Shapes,
    transformers: list[str],
    channels: list[int],
    down: list[list[int]],
    middle: int | None,
    up: tuple[tuple[int, ...], ...],
    first: str,
    last: str,
    added: int | None,
) -> Structure:
    keys = [f"{t}.transformer_blocks.0.attn2.to_{x}.weight" for t in transformers for x in "kv"]
    projections = [f"{t}.proj_{x}.weight" for t in transformers for x in ("in", "out")]
    linear = next((len(shapes[key]) == 2 for key in projections if key in shapes), False)
    context = _first(shapes, 1, *keys)
    inputs, outputs = _first(shapes, 1, first), _first(shapes, 0, last)
    return Structure(tuple(channels), tuple(map(tuple, down)), middle, up, inputs, outputs, context, linear, added)


def _has(shapes: Shapes, module: str) -> bool:
    return any(key.startswith(module + ".") for key in shapes)


def _children(shapes: Shapes, module: str) -> list[int]:
    pattern = re.compile(re.escape(module) + r"\.(\d+)\.")
    return sorted({int(match[1]) for match in map(pattern.match, shapes) if match})


def _depth(shapes: Shapes, transformer: str) -> int:
    return len(_children(shapes, f"{transformer}.transformer_blocks"))


def _first(shapes: Shapes, axis: int, *names: str) -> int:
    for name in names:
        if name in shapes and len(shapes[name]) > axis:
            return shapes[name][axis]
    raise ValueError(f"{names[0]} is missing" if names else "no transformers are in the U-Net")
