"""Masks: from and to pictures, grown, feathered, combined."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from diffusion.mask import grow
from diffusion.values import Image, Mask
from graph_engine.node import Node
from nodes.params import MAX_SIDE, Color, ImageOffset, ImageSide, Unit, number

if TYPE_CHECKING:
    from graph_engine.context import Context

FeatherSide = Annotated[int, number(0, MAX_SIDE, 1, "How far the ramp from this side reaches, in pixels.")]


class MaskToImage(Node, category="mask", title="Convert Mask to Image"):
    """A mask as a grey picture."""

    mask: Mask

    def run(self, ctx: Context) -> Image:
        return Image(self.mask.values[..., None].expand(-1, -1, -1, 3).contiguous())


class ImageToMask(Node, category="mask", title="Convert Image to Mask"):
    """One colour channel of a picture as a mask."""

    image: Image
    channel: Annotated[
        Literal["red", "green", "blue", "alpha"],
        Field(description="alpha: only of pictures that have it, as JoinImageWithAlpha makes them; LoadImage gives it as a mask."),
    ] = "red"

    def run(self, ctx: Context) -> Mask:
        if self.channel == "alpha" and self.image.pixels.shape[-1] < 4:
            raise ValueError("channel: red, green or blue is wanted; this picture has no alpha (the mask output of LoadImage is 1 − alpha)")
        return Mask(self.image.pixels[..., ("red", "green", "blue", "alpha").index(self.channel)].contiguous())


class ImageColorToMask(Node, category="mask", title="Convert Color to Mask", aliases=("chroma key", "image color to mask")):
    """Where a picture has exactly one colour."""

    image: Image
    color: Color = 0

    def run(self, ctx: Context) -> Mask:
        levels = (self.image.pixels.clamp(0, 1) * 255).round().to(torch.int64)
        number = (levels[..., 0] << 16) + (levels[..., 1] << 8) + levels[..., 2]
        return Mask((number == self.color).float())


class SolidMask(Node, category="mask", title="Solid Mask", aliases=("empty mask",)):
    """A mask of one value."""

    value: Unit = 1.0
    width: ImageSide = 512
    height: ImageSide = 512

    def run(self, ctx: Context) -> Mask:
        return Mask(torch.full((1, self.height, self.width), self.value))


class InvertMask(Node, category="mask", title="Invert Mask"):
    """1 − mask."""

    mask: Mask

    def run(self, ctx: Context) -> Mask:
        return Mask(1 - self.mask.values)


class CropMask(Node, category="mask", title="Crop Mask"):
    """A rectangle of a mask, as far as it lies inside; ValueError where nothing of it does."""

    mask: Mask
    x: ImageOffset = 0
    y: ImageOffset = 0
    width: ImageSide = 512
    height: ImageSide = 512

    def run(self, ctx: Context) -> Mask:
        rows, columns = self.mask.values.shape[1:]
        if self.x >= columns or self.y >= rows:
            raise ValueError(f"x, y: a place inside of the mask of {columns} × {rows} is wanted, {self.x}, {self.y} given")
        return Mask(self.mask.values[:, self.y : self.y + self.height, self.x : self.x + self.width])


class ThresholdMask(Node, category="mask", title="Threshold Mask", aliases=("binarize",)):
    """1 where the mask is above a value, else 0."""

    mask: Mask
    value: Unit = 0.5

    def run(self, ctx: Context) -> Mask:
        return Mask((self.mask.values > self.value).float())


class GrowMask(Node, category="mask", title="Grow Mask", aliases=("dilate", "erode", "shrink", "expand")):
    """Grow a mask by pixels, or shrink it."""

    mask: Mask
    expand: Annotated[int, number(-MAX_SIDE, MAX_SIDE, 1, "Pixels to grow by; negative shrinks.")] = 0
    tapered_corners: Annotated[bool, Field(description="Corners grow into slants instead of squares.")] = True

    def run(self, ctx: Context) -> Mask:
        far = sum(self.mask.values.shape[1:])  # by then every pixel has met every other
        return Mask(grow(self.mask.values, max(-far, min(self.expand, far)), self.tapered_corners))


def feather(mask: Tensor, left: int, top: int, right: int, bottom: int) -> Tensor:
    """Masks [b, h, w] times linear ramps (k + 1) / n from the sides.

    As in ComfyUI, whose loop counts the far columns and rows from −0, the k-th factor of the right side lands on column −k: the first
    one falls on column 0, and the last column takes the second. Saved graphs rely on these numbers.
    """
    out = mask.clone()
    height, width = mask.shape[1:]
    for axis, size, near, far in ((2, width, left, right), (1, height, top, bottom)):
        near, far = min(near, size), min(far, size)
        for k in range(near):
            out.select(axis, k).mul_((k + 1) / near)
        for k in range(far):
            out.select(axis, -k).mul_((k + 1) / far)
    return out


class FeatherMask(Node, category="mask", title="Feather Mask", aliases=("soft edge", "fade")):
    """Fade a mask towards its sides."""

    mask: Mask
    left: FeatherSide = 0
    top: FeatherSide = 0
    right: FeatherSide = 0
    bottom: FeatherSide = 0

    def run(self, ctx: Context) -> Mask:
        return Mask(feather(self.mask.values, self.left, self.top, self.right, self.bottom))
