"""Where things lie in a latent: crop, flip, rotate, paste."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field

from diffusion.composite import paste
from diffusion.mask import composite
from diffusion.values import Latent, Mask
from graph_engine.node import Node
from nodes.params import CELL, AreaSide, FlipMethod, LatentOffset, Rotation, quarter_turns

if TYPE_CHECKING:
    from graph_engine.context import Context

SMALLEST = 8  # cells that a crop leaves, where the latent has as many


class LatentCrop(Node, category="latent/transform", title="Crop Latent"):
    """A rectangle of a latent; one that starts too far out is moved in until 8 cells fit. A noise mask is not cropped along."""

    samples: Latent
    width: AreaSide = 512
    height: AreaSide = 512
    x: LatentOffset = 0
    y: LatentOffset = 0

    def run(self, ctx: Context) -> Latent:
        rows, columns = self.samples.x.shape[-2:]
        left, top = max(0, min(self.x // CELL, columns - SMALLEST)), max(0, min(self.y // CELL, rows - SMALLEST))
        x = self.samples.x[..., top : top + self.height // CELL, left : left + self.width // CELL]
        return dataclasses.replace(self.samples, x=x)


class LatentFlip(Node, category="latent/transform", title="Flip Latent", aliases=("mirror",)):
    """Mirror a latent. A noise mask is not mirrored along."""

    samples: Latent
    flip_method: FlipMethod = "x-axis: vertically"

    def run(self, ctx: Context) -> Latent:
        return dataclasses.replace(self.samples, x=self.samples.x.flip(2 if self.flip_method.startswith("x") else 3))


class LatentRotate(Node, category="latent/transform", title="Rotate Latent"):
    """Turn a latent clockwise. A noise mask is not turned along."""

    samples: Latent
    rotation: Rotation = "none"

    def run(self, ctx: Context) -> Latent:
        return dataclasses.replace(self.samples, x=torch.rot90(self.samples.x, quarter_turns(self.rotation), (3, 2)))


class LatentComposite(Node, category="latent", title="Composite Latents", aliases=("latent composite", "paste")):
    """Paste one latent into another, its edges fading in where they do not lie on the border."""

    samples_to: Latent
    samples_from: Latent
    x: LatentOffset = 0
    y: LatentOffset = 0
    feather: Annotated[LatentOffset, Field(description="In pixels of the picture: how wide the edges fade.")] = 0

    def run(self, ctx: Context) -> Latent:
        to, new = self.samples_to.x, self.samples_from.x.to(self.samples_to.x)
        if new.shape[1] != to.shape[1] or new.shape[0] not in (1, to.shape[0]):
            wanted = f"a batch of 1 or {to.shape[0]} with {to.shape[1]} channels as in samples_to"
            raise ValueError(f"samples_from: {wanted} is wanted, shape {tuple(new.shape)} given")
        return dataclasses.replace(self.samples_to, x=composite(to, new, self.x // CELL, self.y // CELL, self.feather // CELL))


class LatentCompositeMasked(Node, category="latent", title="Composite Latents (Masked)", aliases=("paste",)):
    """Paste one latent into another through a mask."""

    destination: Latent
    source: Latent
    x: LatentOffset = 0
    y: LatentOffset = 0
    resize_source: Annotated[bool, Field(description="Resize the source to the destination first.")] = False
    mask: Annotated[Mask | None, Field(description="Resized to the source; 1 takes the source. Without one all of it is pasted.")] = None

    def run(self, ctx: Context) -> Latent:
        mask = None if self.mask is None else self.mask.values
        x = paste(self.destination.x, self.source.x, self.x // CELL, self.y // CELL, mask, self.resize_source)
        return dataclasses.replace(self.destination, x=x)
