"""FreeU (Si et al. 2023): the decoder's own features stronger, the low frequencies of its skip connections weaker."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

import torch
from torch import Tensor

from diffusion.patch import Block, BlockCall, FeaturePatch, Run, RunBlock
from diffusion.values import Model
from graph_engine.node import Node
from nodes.params import number

if TYPE_CHECKING:
    from graph_engine.context import Context

REACH = 1  # frequencies from −1 up to, but not with, 1 count as low


def low_scaled(x: Tensor, factor: float) -> Tensor:
    """x [b, c, h, w] with its lowest frequencies times a factor (sec. 3.2)."""
    spectrum = torch.fft.fftshift(torch.fft.fftn(x.float(), dim=(-2, -1)), dim=(-2, -1))
    row, column = x.shape[-2] // 2, x.shape[-1] // 2
    mask = torch.ones(x.shape[-2:], device=x.device)
    mask[row - REACH : row + REACH, column - REACH : column + REACH] = factor
    return torch.fft.ifftn(torch.fft.ifftshift(spectrum * mask, dim=(-2, -1)), dim=(-2, -1)).real.to(x.dtype)


def amplified(h: Tensor, factor: float, by_mean: bool) -> Tensor:
    """The first half of h's channels times a factor; `by_mean`: only as far as the mean over the channels, from 0 to 1, is high."""
    half = h.shape[1] // 2
    scale: float | Tensor = factor
    if by_mean:
        mean = h.mean(1, keepdim=True)
        low, high = mean.amin((2, 3), keepdim=True), mean.amax((2, 3), keepdim=True)
        scale = (factor - 1) * ((mean - low) / (high - low)) + 1
    return torch.cat([h[:, :half] * scale, h[:, half:]], 1)


@dataclass(frozen=True, slots=True)
class Free(FeaturePatch):
    """At the decoder's widths of four and of two times the U-Net's first: b for what comes from below, s for the skip connection."""

    b: tuple[float, float]
    s: tuple[float, float]
    by_mean: bool

    def begin(self, run: Run) -> Any:
        """A state that will know the U-Net's first width."""
        return AtWidths(self)


@dataclass(slots=True, eq=False)
class AtWidths(FeaturePatch):
    """The patch during one session."""

    free: Free
    width: int = field(default=0)

    def at_block(self, block: Block) -> bool:
        """The first convolution, whose output is as wide as the U-Net's first level, and resnets with skip connections."""
        return block.place == "in" or block.split is not None

    def block(self, call: BlockCall, next: RunBlock) -> Tensor:
        """The resnet of changed features."""
        if call.block.split is None:
            out = next(call)
            self.width = out.shape[1]
            return out
        split = call.block.split
        if split not in (4 * self.width, 2 * self.width):
            return next(call)
        i = 0 if split == 4 * self.width else 1
        h = amplified(call.h[:, :split], self.free.b[i], self.free.by_mean)
        return next(replace(call, h=torch.cat([h, low_scaled(call.h[:, split:], self.free.s[i])], 1)))


# nodes

Backbone1 = Annotated[float, number(0, 10, 0.01, "Factor for the decoder's features where it is four times as wide as the U-Net's start.")]
Backbone2 = Annotated[float, number(0, 10, 0.01, "The same where it is twice as wide.")]
Skip1 = Annotated[float, number(0, 10, 0.01, "Factor for the skip connection's low frequencies where the decoder is four times as wide.")]
Skip2 = Annotated[float, number(0, 10, 0.01, "The same where it is twice as wide.")]


class FreeU(Node, category="model_patches/unet", title="FreeU", aliases=("quality",)):
    """Strengthen the decoder's features and weaken the low frequencies of its skip connections (Si et al. 2023)."""

    model: Model
    b1: Backbone1 = 1.1
    b2: Backbone2 = 1.2
    s1: Skip1 = 0.9
    s2: Skip2 = 0.2

    def run(self, ctx: Context) -> Model:
        return self.model.patched(Free((self.b1, self.b2), (self.s1, self.s2), by_mean=False))


class FreeU_V2(Node, category="model_patches/unet", title="FreeU V2", aliases=("quality",)):  # the name in saved graphs
    """FreeU that strengthens features only where their mean over the channels is high (Si et al. 2023, version 2)."""

    model: Model
    b1: Backbone1 = 1.3
    b2: Backbone2 = 1.4
    s1: Skip1 = 0.9
    s2: Skip2 = 0.2

    def run(self, ctx: Context) -> Model:
        return self.model.patched(Free((self.b1, self.b2), (self.s1, self.s2), by_mean=True))
