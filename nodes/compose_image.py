"""A cut-out laid over a picture by its alpha: scaled, turned and placed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from diffusion.batch import repeat_to
from diffusion.values import Image, Mask
from graph_engine.node import Node
from nodes.params import CELL, MAX_SIDE, Unit, number

if TYPE_CHECKING:
    from graph_engine.context import Context

Offset = Annotated[int, number(-MAX_SIDE, MAX_SIDE, CELL, "In pixels from the left or top, of the foreground before it is turned.")]
WHITE_KNEE, LINEAR_KNEE, SLOPE, OFFSET, GAMMA = 0.04045, 0.0031308, 12.92, 0.055, 2.4  # of sRGB


def placed(rgba: Tensor, size: tuple[int, int], x: int, y: int, scale: float, degrees: float) -> Tensor:
    """Premultiplied colours and alpha [b, 4, h', w'], scaled, laid at x, y of a picture of that size, turned clockwise."""
    if scale != 1:
        scaled = [max(1, round(side * scale)) for side in rgba.shape[2:]]
        rgba = F.interpolate(rgba, scaled, mode="bilinear", antialias=True)
    (h, w), (height, width) = rgba.shape[2:], size
    out = rgba.new_zeros(len(rgba), 4, height, width)
    if degrees % 360 == 0:
        top, left, bottom, right = max(y, 0), max(x, 0), min(y + h, height), min(x + w, width)
        if top < bottom and left < right:
            out[:, :, top:bottom, left:right] = rgba[:, :, top - y : bottom - y, left - x : right - x]
        return out
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    across = torch.arange(width).to(rgba)[None, :] + 0.5 - (x + w / 2)
    down = torch.arange(height).to(rgba)[:, None] + 0.5 - (y + h / 2)
    # where each pixel of the picture lies on the foreground, from −1 to 1
    grid = torch.stack(((cos * across + sin * down) * 2 / w, (cos * down - sin * across) * 2 / h), -1)
    return F.grid_sample(rgba, grid.expand(len(rgba), -1, -1, -1), mode="bilinear", padding_mode="zeros", align_corners=False)


def linear(srgb: Tensor) -> Tensor:
    """sRGB as light (IEC 61966-2-1)."""
    return torch.where(srgb <= WHITE_KNEE, srgb / SLOPE, ((srgb.clamp(min=0) + OFFSET) / (1 + OFFSET)) ** GAMMA)


def encoded(light: Tensor) -> Tensor:
    """Light as sRGB, the inverse of `linear`."""
    return torch.where(light <= LINEAR_KNEE, light * SLOPE, (1 + OFFSET) * light.clamp(min=LINEAR_KNEE) ** (1 / GAMMA) - OFFSET)


# node


class ComposeImage(Node, category="editing/compositing", title="Compose Image", aliases=("paste", "cut-out", "place", "overlay")):
    """Lay a cut-out over a picture: scaled, turned and placed, by its straight alpha; pixels that it does not touch stay bit for bit."""

    background: Image
    foreground: Annotated[Image, Field(description="With alpha, or with the mask; otherwise all of it is laid.")]
    mask: Annotated[Mask | None, Field(description="1 shows the foreground; resized to it, and multiplied with its alpha.")] = None
    x: Offset = 0
    y: Offset = 0
    scale: Annotated[float, number(0.01, 64, 0.01, "Size of the foreground, as a factor.", round=False)] = 1.0
    rotation: Annotated[float, number(-360, 360, 1, "Degrees clockwise about its middle.", round=False)] = 0.0
    opacity: Unit = 1.0
    linear_light: Annotated[bool, Field(description="Mix light rather than sRGB numbers where both show, as a lens would.")] = False

    class Out(NamedTuple):
        image: Image
        mask: Annotated[Mask, Field(description="How much of the foreground shows.")]

    def run(self, ctx: Context) -> Out:
        under = self.background.pixels[..., :3]
        over = self.foreground.pixels.to(under)
        alpha = over[..., 3:] if over.shape[-1] == 4 else torch.ones_like(over[..., :1])
        if self.mask is not None:
            shown = self.mask.values[:, None].to(under)
            if shown.shape[2:] != over.shape[1:3]:
                shown = F.interpolate(shown, over.shape[1:3], mode="bilinear")
            n = max(len(over), len(shown))
            over, alpha = repeat_to(over, n), repeat_to(alpha, n) * repeat_to(shown, n).movedim(1, -1).clamp(0, 1)
        n = max(len(over), len(under))
        over, alpha, under = repeat_to(over, n), repeat_to(alpha, n), repeat_to(under, n)
        color = linear(over[..., :3]) if self.linear_light else over[..., :3]
        premultiplied = torch.cat([color * alpha, alpha], -1).movedim(-1, 1)
        laid = placed(premultiplied, (under.shape[1], under.shape[2]), self.x, self.y, self.scale, self.rotation).movedim(1, -1)
        laid = laid * self.opacity
        alpha = laid[..., 3:].clamp(0, 1)
        ground = linear(under) if self.linear_light else under
        mixed = laid[..., :3] + ground * (1 - alpha)
        mixed = (encoded(mixed) if self.linear_light else mixed).clamp(0, 1)
        return self.Out(Image(torch.where(alpha > 0, mixed, under)), Mask(alpha[..., 0]))
