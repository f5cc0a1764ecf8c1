"""Pictures blurred, sharpened, and brought down to few colours."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image as Picture
from pydantic import Field
from torch import Tensor

from diffusion.image import from_pil, to_pil
from diffusion.values import Image
from graph_engine.node import Node
from nodes.params import number

if TYPE_CHECKING:
    from graph_engine.context import Context

Radius = Annotated[int, number(1, 31, 1, "In pixels.")]


def gaussian(radius: int, sigma: float) -> Tensor:
    """A Gaussian on (2·radius + 1)² pixels that sums to 1; sigma is in units of the radius."""
    line = torch.linspace(-1, 1, 2 * radius + 1)
    kernel = torch.exp(-(line[:, None] ** 2 + line**2) / (2 * sigma**2))
    return kernel / kernel.sum()


def filtered(pixels: Tensor, kernel: Tensor) -> Tensor:
    """Pixels [b, h, w, c], mirrored at the border, under a kernel of odd side; ValueError for pictures no larger than its half."""
    radius, c = kernel.shape[0] // 2, pixels.shape[-1]
    if min(pixels.shape[1:3]) <= radius:
        raise ValueError(f"radius: less than the picture's shorter side of {min(pixels.shape[1:3])} is wanted, {radius} given")
    padded = F.pad(pixels.movedim(-1, 1), (radius,) * 4, mode="reflect")
    return F.conv2d(padded, kernel.to(pixels).expand(c, 1, -1, -1), groups=c).movedim(1, -1)


class ImageBlur(Node, category="image/postprocessing", title="Blur Image", aliases=("gaussian", "soften")):
    """Blur with a Gaussian."""

    image: Image
    blur_radius: Radius = 1
    sigma: Annotated[float, number(0.1, 10, 0.1, "Width of the Gaussian as a share of the radius.")] = 1.0

    def run(self, ctx: Context) -> Image:
        return Image(filtered(self.image.pixels, gaussian(self.blur_radius, self.sigma)))


class ImageSharpen(Node, category="image/postprocessing", title="Sharpen Image", aliases=("unsharp mask",)):
    """Add the picture's difference from its own blur (unsharp masking)."""

    image: Image
    sharpen_radius: Radius = 1
    sigma: Annotated[float, number(0.1, 10, 0.01, "Width of the Gaussian as a share of the radius.")] = 1.0
    alpha: Annotated[float, number(0, 5, 0.01, "How much; in tenths of the difference.")] = 1.0

    def run(self, ctx: Context) -> Image:
        kernel = gaussian(self.sharpen_radius, self.sigma) * -(self.alpha * 10)
        kernel[self.sharpen_radius, self.sharpen_radius] += 1 - kernel.sum()
        return Image(filtered(self.image.pixels, kernel).clamp(0, 1))


def bayer(order: int) -> np.ndarray:
    """Thresholds of ordered dithering, [order, order], from −1/2 to 1/2 (Bayer 1973); order is a power of two."""
    matrix = np.zeros((1, 1))
    for level in range(1, int(math.log2(order)) + 1):
        q, scaled = 4.0**level, matrix * 4.0**level
        matrix = np.block([[scaled - 1.5, scaled + 0.5], [scaled + 1.5, scaled - 0.5]]) / q
    return matrix


def quantized(picture: Picture.Image, colors: int, dither: str) -> Picture.Image:
    """An RGB picture in so many colours of its own (median cut), between which `dither` mixes."""
    palette = picture.quantize(colors=colors)
    if dither == "floyd-steinberg":
        return picture.quantize(palette=palette, dither=Picture.Dither.FLOYDSTEINBERG).convert("RGB")
    if dither.startswith("bayer"):
        order = int(dither.rpartition("-")[2])
        spread = 2 * 256 / max(1, len(palette.getpalette() or ()) // 3)
        height, width = picture.height, picture.width
        tiles = np.tile(spread * bayer(order) + 0.5, (-(-height // order), -(-width // order)))[:height, :width, None]
        picture = Picture.fromarray((np.asarray(picture, dtype=np.float32) + tiles).clip(0, 255).astype(np.uint8))
    return picture.quantize(palette=palette, dither=Picture.Dither.NONE).convert("RGB")


class ImageQuantize(Node, category="image/postprocessing", title="Quantize Image", aliases=("palette", "dither", "posterize")):
    """Bring pictures down to a few colours of their own."""

    image: Image
    colors: Annotated[int, number(1, 256, 1, "How many.")] = 256
    dither: Annotated[
        Literal["none", "floyd-steinberg", "bayer-2", "bayer-4", "bayer-8", "bayer-16"],
        Field(description="How colours between those are suggested."),
    ] = "none"

    def run(self, ctx: Context) -> Image:
        pixels = self.image.pixels
        pictures = [quantized(each, self.colors, self.dither) for each in to_pil(pixels[..., :3])]
        return Image(torch.cat([from_pil(pictures).to(pixels), pixels[..., 3:]], -1))
