"""Batches of pictures, and what size they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple

import torch

from diffusion.image import fit_channels, resize_image
from diffusion.values import Image
from graph_engine.node import Node
from nodes.params import number

if TYPE_CHECKING:
    from graph_engine.context import Context


class ImageBatch(Node, category="image/batch", title="Batch Images", aliases=("join", "combine"), deprecated=True):
    """Two batches one after the other, the second resized around its centre to the first."""

    image1: Image
    image2: Image

    def run(self, ctx: Context) -> Image:
        a, b = self.image1.pixels, self.image2.pixels.to(self.image1.pixels)
        a, b = (fit_channels(each, max(a.shape[-1], b.shape[-1])) for each in (a, b))
        if b.shape[1:] != a.shape[1:]:
            b = resize_image(b, a.shape[2], a.shape[1], "bilinear", "center")
        return Image(torch.cat([a, b]))


class RepeatImageBatch(Node, category="image/batch", title="Repeat Image Batch"):
    """The whole batch several times."""

    image: Image
    amount: Annotated[int, number(1, 4096, 1, "How many times.")] = 1

    def run(self, ctx: Context) -> Image:
        return Image(self.image.pixels.repeat(self.amount, 1, 1, 1))


class ImageFromBatch(Node, category="image/batch", title="Image From Batch", aliases=("pick", "select")):
    """Take some pictures out of a batch."""

    image: Image
    batch_index: Annotated[int, number(0, 4095, 1, "The first one, counted from 0; the last of the batch if there are fewer.")] = 0
    length: Annotated[int, number(1, 4096, 1, "How many, as far as there are.")] = 1

    def run(self, ctx: Context) -> Image:
        first = min(self.batch_index, self.image.pixels.shape[0] - 1)
        return Image(self.image.pixels[first : first + self.length])


class GetImageSize(Node, category="image", title="Get Image Size", aliases=("width", "height", "resolution")):
    """How wide and high pictures are, and how many."""

    image: Image

    class Out(NamedTuple):
        width: int
        height: int
        batch_size: int

    def run(self, ctx: Context) -> Out:
        count, height, width = self.image.pixels.shape[:3]
        return self.Out(width, height, count)
