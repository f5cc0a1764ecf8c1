"""Pictures put together by place: pasted through a mask, or padded for painting on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from diffusion.composite import paste
from diffusion.image import fit_channels
from diffusion.values import Image, Mask
from graph_engine.node import Node
from nodes.params import MAX_SIDE, ImageOffset, Margin, number

if TYPE_CHECKING:
    from graph_engine.context import Context


class ImageCompositeMasked(Node, category="image", title="Composite Images (Masked)", aliases=("paste", "overlay")):
    """Paste one picture into another through a mask."""

    destination: Image
    source: Image
    x: ImageOffset = 0
    y: ImageOffset = 0
    resize_source: Annotated[bool, Field(description="Resize the source to the destination first.")] = False
    mask: Annotated[Mask | None, Field(description="Resized to the source; 1 takes the source. Without one all of it is pasted.")] = None

    def run(self, ctx: Context) -> Image:
        mask = None if self.mask is None else self.mask.values
        source = fit_channels(self.source.pixels, self.destination.pixels.shape[-1])  # the destination says whether there is alpha
        under, over = self.destination.pixels.movedim(-1, 1), source.movedim(-1, 1)
        return Image(paste(under, over, self.x, self.y, mask, self.resize_source).movedim(1, -1).contiguous())


def outpaint_mask(height: int, width: int, left: int, top: int, right: int, bottom: int, feathering: int) -> Tensor:
    """1 on the added margins of a height × width picture; inside, ((f − d) / f)² at distance d < f from a side that was extended."""
    inside = torch.zeros(height, width)
    if feathering > 0 and feathering * 2 < height and feathering * 2 < width:
        far = torch.tensor(float(max(height, width)))  # a side that was not extended does not count
        rows, columns = torch.arange(height), torch.arange(width)
        from_top, from_bottom = (rows if top else far).expand(height), ((height - rows) if bottom else far).expand(height)
        from_left, from_right = (columns if left else far).expand(width), ((width - columns) if right else far).expand(width)
        distance = torch.minimum(torch.minimum(from_top, from_bottom)[:, None], torch.minimum(from_left, from_right)[None])
        inside = ((feathering - distance) / feathering).clamp(min=0) ** 2
    return F.pad(inside, (left, right, top, bottom), value=1.0)


class ImagePadForOutpaint(Node, category="image", title="Pad Image for Outpainting", aliases=("outpaint", "extend", "margin")):
    """Grey margins round a picture, and the mask that paints them with a soft seam."""

    image: Image
    left: Margin = 0
    top: Margin = 0
    right: Margin = 0
    bottom: Margin = 0
    feathering: Annotated[int, number(0, MAX_SIDE, 1, "How far the seam reaches into the picture, in pixels.")] = 40

    class Out(NamedTuple):
        image: Image
        mask: Mask

    def run(self, ctx: Context) -> Out:
        pixels = self.image.pixels
        padded = F.pad(pixels, (0, 0, self.left, self.right, self.top, self.bottom), value=0.5)
        height, width = pixels.shape[1:3]
        mask = outpaint_mask(height, width, self.left, self.top, self.right, self.bottom, self.feathering)
        return self.Out(Image(padded), Mask(mask[None]))
