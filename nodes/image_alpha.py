"""Pictures with transparency: taken apart, put together, and laid over each other by the Porter-Duff rules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from diffusion.batch import repeat_to
from diffusion.image import resize, resize_image
from diffusion.values import Image, Mask
from graph_engine.node import Node

if TYPE_CHECKING:
    from graph_engine.context import Context

MODES = (
    "ADD", "CLEAR", "DARKEN", "DST", "DST_ATOP", "DST_IN", "DST_OUT", "DST_OVER", "LIGHTEN", "MULTIPLY", "OVERLAY", "SCREEN",
    "SRC", "SRC_ATOP", "SRC_IN", "SRC_OUT", "SRC_OVER", "XOR",
)  # fmt: skip
Transparent = Annotated[Mask, Field(description="1 − alpha: 1 is transparent, as LoadImage gives it; resized to the picture.")]

if TYPE_CHECKING:  # a checker cannot follow choices that are computed
    Mode = str
else:
    Mode = Annotated[
        Literal[MODES], Field(description="Which of both shows where; SRC_OVER lays the source on top, DST keeps the destination.")
    ]


def composite(source: Tensor, a: Tensor, destination: Tensor, b: Tensor, mode: str) -> tuple[Tensor, Tensor]:
    """Colours and alpha of two pictures, both premultiplied by their alphas a and b [b, h, w, 1] (Porter & Duff 1984, table 1).

    The modes beyond the twelve of the paper are those of the W3C's and Android's extension of it.
    """
    over = a + b - a * b
    rest = (1 - b) * source + (1 - a) * destination
    if mode == "ADD":
        return (source + destination).clamp(0, 1), (a + b).clamp(0, 1)
    if mode == "MULTIPLY":
        return source * destination, a * b
    if mode == "SCREEN":
        return source + destination - source * destination, over
    if mode == "OVERLAY":
        dark = 2 * source * destination
        return torch.where(2 * destination < b, dark, a * b - 2 * (b - source) * (a - destination)), over
    if mode == "DARKEN":
        return rest + torch.minimum(source, destination), over
    if mode == "LIGHTEN":
        return rest + torch.maximum(source, destination), over
    zero, one = torch.zeros_like(a), torch.ones_like(a)
    share, other = {  # how much of the source and of the destination shows
        "CLEAR": (zero, zero),
        "SRC": (one, zero),
        "DST": (zero, one),
        "SRC_OVER": (one, 1 - a),
        "DST_OVER": (1 - b, one),
        "SRC_IN": (b, zero),
        "DST_IN": (zero, a),
        "SRC_OUT": (1 - b, zero),
        "DST_OUT": (zero, 1 - a),
        "SRC_ATOP": (b, 1 - a),
        "DST_ATOP": (1 - b, a),
        "XOR": (1 - b, 1 - a),
    }[mode]
    return share * source + other * destination, share * a + other * b


def _fitted(x: Tensor, like: Tensor) -> Tensor:
    """x [b, h, w, c] at the size of another picture, resized around its centre where it differs."""
    return x if x.shape[1:3] == like.shape[1:3] else resize_image(x, like.shape[2], like.shape[1], "bicubic", "center")


class PorterDuffImageComposite(Node, category="mask/compositing", title="Porter-Duff Image Composite", aliases=("alpha blend", "overlay")):
    """Lay one picture with transparency over another (Porter & Duff 1984). Of batches, as many as there are of all four."""

    source: Annotated[Image, Field(description="Resized to the destination around its centre where it differs.")]
    source_alpha: Transparent
    destination: Image
    destination_alpha: Transparent
    mode: Mode = "DST"

    class Out(NamedTuple):
        image: Image
        mask: Annotated[Mask, Field(description="1 − alpha of the result.")]

    def run(self, ctx: Context) -> Out:
        batches = (self.source.pixels[..., :3], self.source_alpha.values[..., None], self.destination_alpha.values[..., None])
        n = min(len(self.destination.pixels), *map(len, batches))
        destination = self.destination.pixels[:n, ..., :3]
        source, clear, clear_below = (_fitted(each[:n].to(destination), destination) for each in batches)
        a, b = 1 - clear, 1 - clear_below
        color, alpha = composite(source * a, a, destination * b, b, self.mode)
        color = torch.where(alpha > 1e-5, color / alpha, 0.0).clamp(0, 1)
        return self.Out(Image(color), Mask(1 - alpha[..., 0]))


class SplitImageWithAlpha(Node, category="mask/compositing", title="Split Image with Alpha", aliases=("transparency", "rgba")):
    """Colours and transparency of a picture apart."""

    image: Image

    class Out(NamedTuple):
        image: Image
        mask: Annotated[Mask, Field(description="1 − alpha; zeros for a picture without alpha.")]

    def run(self, ctx: Context) -> Out:
        pixels = self.image.pixels
        alpha = pixels[..., 3] if pixels.shape[-1] > 3 else torch.ones_like(pixels[..., 0])
        return self.Out(Image(pixels[..., :3].contiguous()), Mask(1 - alpha))


class JoinImageWithAlpha(Node, category="mask/compositing", title="Join Image with Alpha", aliases=("transparency", "rgba")):
    """A picture with transparency; saved as a PNG file with alpha."""

    image: Image
    alpha: Transparent

    def run(self, ctx: Context) -> Image:
        pixels, values = self.image.pixels[..., :3], self.alpha.values.to(self.image.pixels)
        clear = resize(values[:, None], pixels.shape[2], pixels.shape[1], "bilinear").movedim(1, -1)
        n = max(len(pixels), len(clear))
        return Image(torch.cat([repeat_to(pixels, n), 1 - repeat_to(clear, n)], -1))
