"""Latents: empty ones, sizes, masks of noise."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field

from diffusion.image import complete_size, resize
from diffusion.values import Latent, Mask
from graph_engine.node import Node
from nodes.params import CELL, BatchSize, Crop, LatentSide, LatentUpscaleMethod, ScaleBy, ScaledLatentSide

if TYPE_CHECKING:
    from graph_engine.context import Context

SMALLEST = 64  # pixels a side that LatentUpscale goes down to


class EmptyLatentImage(Node, category="latent", title="Empty Latent Image", aliases=("new", "blank")):
    """A batch of empty latents, to be filled by a sampler."""

    width: LatentSide = 512
    height: LatentSide = 512
    batch_size: BatchSize = 1

    def run(self, ctx: Context) -> Latent:
        return Latent(torch.zeros(self.batch_size, 4, self.height // CELL, self.width // CELL))


class LatentUpscale(Node, category="latent", title="Upscale Latent", aliases=("resize", "hires fix")):
    """Latents at another size; width or height 0 keeps the aspect ratio, both 0 changes nothing."""

    samples: Latent
    upscale_method: LatentUpscaleMethod
    width: ScaledLatentSide = 512
    height: ScaledLatentSide = 512
    crop: Crop = "disabled"

    def run(self, ctx: Context) -> Latent:
        if self.width == 0 and self.height == 0:
            return self.samples
        rows, columns = self.samples.x.shape[-2:]
        width, height = complete_size(self.width, self.height, columns, rows, least=SMALLEST)
        x = resize(self.samples.x, width // CELL, height // CELL, self.upscale_method, self.crop)
        return dataclasses.replace(self.samples, x=x)


class LatentUpscaleBy(Node, category="latent", title="Upscale Latent By", aliases=("resize", "hires fix")):
    """Latents at a multiple of their size."""

    samples: Latent
    upscale_method: LatentUpscaleMethod
    scale_by: ScaleBy = 1.5

    def run(self, ctx: Context) -> Latent:
        height, width = (max(1, round(side * self.scale_by)) for side in self.samples.x.shape[-2:])
        return dataclasses.replace(self.samples, x=resize(self.samples.x, width, height, self.upscale_method))


class SetLatentNoiseMask(Node, category="latent/inpaint", title="Set Latent Noise Mask", aliases=("inpaint",)):
    """Sample only where the mask is: elsewhere the latent stays as it is, grey mixes both."""

    samples: Latent
    mask: Annotated[Mask, Field(description="1 may change, 0 stays; resized to the latent.")]

    def run(self, ctx: Context) -> Latent:
        return dataclasses.replace(self.samples, noise_mask=self.mask.values[:, None])
