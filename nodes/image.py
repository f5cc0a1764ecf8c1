"""Pictures: size, place, colours, blends."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from diffusion.image import complete_size, fit_channels, resize_image
from diffusion.values import Image
from graph_engine.node import Node
from nodes.params import (
    BatchSize,
    Color,
    Crop,
    FlipMethod,
    ImageOffset,
    ImageSide,
    Rotation,
    ScaleBy,
    ScaledImageSide,
    Unit,
    UpscaleMethod,
    number,
    quarter_turns,
)

if TYPE_CHECKING:
    from graph_engine.context import Context


class ImageScale(Node, category="image/upscaling", title="Upscale Image", aliases=("resize",)):
    """Pictures at another size; width or height 0 keeps the aspect ratio, both 0 changes nothing."""

    image: Image
    upscale_method: UpscaleMethod
    width: ScaledImageSide = 512
    height: ScaledImageSide = 512
    crop: Crop = "disabled"

    def run(self, ctx: Context) -> Image:
        if self.width == 0 and self.height == 0:
            return self.image
        rows, columns = self.image.pixels.shape[1:3]
        width, height = complete_size(self.width, self.height, columns, rows)
        return Image(resize_image(self.image.pixels, width, height, self.upscale_method, self.crop))


class ImageScaleBy(Node, category="image/upscaling", title="Upscale Image By", aliases=("resize",)):
    """Pictures at a multiple of their size."""

    image: Image
    upscale_method: UpscaleMethod
    scale_by: ScaleBy = 1.0

    def run(self, ctx: Context) -> Image:
        height, width = (max(1, round(side * self.scale_by)) for side in self.image.pixels.shape[1:3])
        return Image(resize_image(self.image.pixels, width, height, self.upscale_method))


class ImageScaleToTotalPixels(Node, category="image/upscaling", title="Scale Image to Total Pixels", aliases=("resize", "megapixels")):
    """Pictures at about so many pixels in all, their aspect ratio kept."""

    image: Image
    upscale_method: UpscaleMethod
    megapixels: Annotated[float, number(0.01, 16, 0.01, "In units of 1024 × 1024 pixels.")] = 1.0
    resolution_steps: Annotated[int, number(1, 256, 1, "Width and height are rounded to multiples of this.")] = 1

    def run(self, ctx: Context) -> Image:
        rows, columns = self.image.pixels.shape[1:3]
        factor, step = math.sqrt(self.megapixels * 1024 * 1024 / (rows * columns)), self.resolution_steps
        width, height = (max(1, round(side * factor / step)) * step for side in (columns, rows))
        return Image(resize_image(self.image.pixels, width, height, self.upscale_method))


class ImageInvert(Node, category="image", title="Invert Image", aliases=("negative",)):
    """The negative: 1 − value."""

    image: Image

    def run(self, ctx: Context) -> Image:
        return Image(1 - self.image.pixels)


class ImageCrop(Node, category="image/transform", title="Crop Image", aliases=("image crop", "cut")):
    """A rectangle of a picture, as far as it lies inside."""

    image: Image
    width: ImageSide = 512
    height: ImageSide = 512
    x: ImageOffset = 0
    y: ImageOffset = 0

    def run(self, ctx: Context) -> Image:
        rows, columns = self.image.pixels.shape[1:3]
        x, y = min(self.x, columns - 1), min(self.y, rows - 1)
        return Image(self.image.pixels[:, y : y + self.height, x : x + self.width])


class ImageFlip(Node, category="image/transform", title="Flip Image", aliases=("mirror",)):
    """Mirror a picture."""

    image: Image
    flip_method: FlipMethod = "x-axis: vertically"

    def run(self, ctx: Context) -> Image:
        return Image(self.image.pixels.flip(1 if self.flip_method.startswith("x") else 2))


class ImageRotate(Node, category="image/transform", title="Rotate Image", aliases=("turn",)):
    """Turn a picture clockwise."""

    image: Image
    rotation: Rotation = "none"

    def run(self, ctx: Context) -> Image:
        return Image(torch.rot90(self.image.pixels, quarter_turns(self.rotation), (2, 1)))


class EmptyImage(Node, category="image", title="Empty Image", aliases=("solid color", "blank")):
    """Pictures of one colour."""

    width: ImageSide = 512
    height: ImageSide = 512
    batch_size: BatchSize = 1
    color: Color = 0

    def run(self, ctx: Context) -> Image:
        channels = [(self.color >> shift & 0xFF) / 255 for shift in (16, 8, 0)]
        return Image(torch.tensor(channels).repeat(self.batch_size, self.height, self.width, 1))


def modes(a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """What each blend mode makes of pixels a under b, from 0 to 1; soft_light as in W3C Compositing, the others as everywhere."""
    root = torch.where(a <= 0.25, ((16 * a - 12) * a + 4) * a, a.clamp(min=0).sqrt())
    return {
        "normal": b,
        "multiply": a * b,
        "screen": 1 - (1 - a) * (1 - b),
        "overlay": torch.where(a <= 0.5, 2 * a * b, 1 - 2 * (1 - a) * (1 - b)),
        "soft_light": torch.where(b <= 0.5, a - (1 - 2 * b) * a * (1 - a), a + (2 * b - 1) * (root - a)),
        "difference": a - b,
    }


class ImageBlend(Node, category="image/postprocessing", title="Blend Images", aliases=("image blend", "overlay", "multiply", "screen")):
    """Lay image2 over image1: image1 · (1 − factor) + blended · factor."""

    image1: Image
    image2: Annotated[Image, Field(description="Resized to image1 where it differs.")]
    blend_factor: Annotated[Unit, Field(description="0: only image1; 1: only what the mode makes of both.")] = 0.5
    blend_mode: Annotated[
        Literal["normal", "multiply", "screen", "overlay", "soft_light", "difference"], Field(description="How the two are put together.")
    ] = "normal"

    def run(self, ctx: Context) -> Image:
        a = self.image1.pixels
        b = fit_channels(self.image2.pixels.to(a), a.shape[-1])
        if b.shape[1:] != a.shape[1:]:
            b = resize_image(b, a.shape[2], a.shape[1], "bicubic", "center")
        if b.shape[0] not in (1, a.shape[0]) and a.shape[0] != 1:
            raise ValueError(f"image2: a batch of 1 or {a.shape[0]} is wanted as in image1, {b.shape[0]} given")
        return Image((a * (1 - self.blend_factor) + modes(a, b)[self.blend_mode] * self.blend_factor).clamp(0, 1))
