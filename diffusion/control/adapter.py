"""T2I-Adapters (Mou et al. 2023): a picture's features at every level of the U-Net, the same at every step; full, light and SDXL."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion.loading import fill

PLAIN = (64, 192)  # input channels: 1 or 3 colours of 8 × 8 pixels
WIDE = (256, 768)  # and of SDXL adapters: of 16 × 16 pixels


class Block(nn.Module):
    """A residual block: 3 × 3, ReLU, then 1 × 1 (or 3 × 3 in light adapters)."""

    def __init__(self, before: int, channels: int, kernel: int, enter: bool, shrink: bool, conv_down: bool) -> None:
        super().__init__()
        self.shrink = shrink
        self.down_opt = nn.ModuleDict({"op": nn.Conv2d(before, before, 3, 2, 1)}) if conv_down else None
        self.in_conv = nn.Conv2d(before, channels, 1) if enter else None
        self.block1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.block2 = nn.Conv2d(channels, channels, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        if self.down_opt is not None:
            x = self.down_opt["op"](x)
        elif self.shrink:
            x = halved(x)
        if self.in_conv is not None:
            x = self.in_conv(x)
        return x + self.block2(F.relu(self.block1(x)))


class Stage(nn.Module):
    """A level of a light adapter: residual blocks between two 1 × 1 convolutions."""

    def __init__(self, before: int, inner: int, channels: int, blocks: int, shrink: bool) -> None:
        super().__init__()
        self.shrink = shrink
        self.in_conv = nn.Conv2d(before, inner, 1)
        self.body = nn.Sequential(*(Block(inner, inner, 3, False, False, False) for _ in range(blocks)))
        self.out_conv = nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.out_conv(self.body(self.in_conv(halved(x) if self.shrink else x))))


class Adapter(nn.Module):
    """Feature maps of a picture [b, c, H, W] in 0..1; `wide` ones (SDXL) for other places than the rest."""

    def __init__(self, body: list[nn.Module], conv_in: nn.Conv2d | None, per_level: int, inputs: int) -> None:
        super().__init__()
        self.conv_in, self.body = conv_in, nn.ModuleList(body)
        self.per_level = per_level
        self.wide = conv_in is not None and inputs in WIDE
        self.patch = 16 if self.wide else 8
        self.colors = inputs // self.patch**2

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        if self.colors == 1:
            x = x.mean(1, keepdim=True)
        x = F.pixel_unshuffle(x, self.patch)
        if self.conv_in is not None:
            x = self.conv_in(x)
        features = []
        for i, block in enumerate(self.body):
            x = block(x)
            if (i + 1) % self.per_level == 0:
                features.append(x)
        return tuple(features)


def halved(x: Tensor) -> Tensor:
    """Means of 2 × 2 cells; odd sides get a border of zeros, as the authors' and ComfyUI's adapters have it."""
    return F.avg_pool2d(x, 2, padding=(x.shape[2] % 2, x.shape[3] % 2))


def authors_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under the authors' names; diffusers puts two residual blocks into a level, the authors number them through."""
    if not any(name.startswith("adapter.") for name in tensors):
        return dict(tensors)
    bare = {name.removeprefix("adapter."): tensor for name, tensor in tensors.items()}
    light = any(name.endswith("out_conv.weight") for name in bare)
    found = {}
    for name, tensor in bare.items():
        if match := re.match(r"body\.(\d+)\.resnets\.(\d+)\.(.+)$", name):
            level, block = int(match[1]), int(match[2])
            name = f"body.{level}.body.{block}.{match[3]}" if light else f"body.{2 * level + block}.{match[3]}"
        elif not light and (match := re.match(r"body\.(\d+)\.in_conv\.(.+)$", name)):
            name = f"body.{2 * int(match[1])}.in_conv.{match[2]}"
        found[name] = tensor
    return found


def from_tensors(tensors: Mapping[str, Tensor], dtype: torch.dtype, source: Path) -> Adapter:
    """The adapter that weights belong to, with them; ValueError where they do not make one."""
    weights = authors_names(tensors)
    count = 1 + max((int(m[1]) for m in (re.match(r"body\.(\d+)\.", name) for name in weights) if m), default=-1)
    try:
        with torch.device("meta"):
            adapter = _light(weights, count) if "body.0.in_conv.weight" in weights else _full(weights, count)
    except KeyError as problem:
        raise ValueError(f"{source.name}: no T2I-Adapter that is known: {problem.args[0]} is missing") from problem
    except ValueError as problem:
        raise ValueError(f"{source.name}: {problem}") from problem
    fill(adapter, weights, dtype, source)
    return adapter


def _check_inputs(inputs: int, known: tuple[int, ...]) -> None:
    if inputs not in known:
        wanted = " or ".join(map(str, known))
        raise ValueError(f"T2I-Adapter: {wanted} input channels are wanted, for grey or coloured pictures; it has {inputs}")


def _light(weights: Mapping[str, Tensor], count: int) -> Adapter:
    _check_inputs(weights["body.0.in_conv.weight"].shape[1], PLAIN)
    stages: list[nn.Module] = []
    for i in range(count):
        inner, before = weights[f"body.{i}.in_conv.weight"].shape[:2]
        blocks = sum(re.fullmatch(rf"body\.{i}\.body\.\d+\.block1\.weight", name) is not None for name in weights)
        stages.append(Stage(before, inner, weights[f"body.{i}.out_conv.weight"].shape[0], blocks, shrink=i > 0))
    return Adapter(stages, None, 1, weights["body.0.in_conv.weight"].shape[1])


def _full(weights: Mapping[str, Tensor], count: int) -> Adapter:
    first, inputs = weights["conv_in.weight"].shape[:2]
    _check_inputs(inputs, PLAIN + WIDE)
    blocks: list[nn.Module] = []
    before = first
    for i in range(count):
        level, start = divmod(i, 2)
        channels = weights[f"body.{i}.block1.weight"].shape[0]
        shrink = start == 0 and (level == 2 if inputs in WIDE else level > 0)
        blocks.append(
            Block(
                before,
                channels,
                weights[f"body.{i}.block2.weight"].shape[2],
                f"body.{i}.in_conv.weight" in weights,
                shrink,
                f"body.{i}.down_opt.op.weight" in weights,
            )
        )
        before = channels
    return Adapter(blocks, nn.Conv2d(inputs, first, 3, padding=1), 2, inputs)
