"""Lists of batches cut anew into batches of one size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field
from torch import Tensor

from diffusion.batch import repeat_to
from diffusion.image import resize
from diffusion.values import Image, Latent
from graph_engine.node import Node
from nodes.params import CELL, BatchSize

if TYPE_CHECKING:
    from graph_engine.context import Context


class RebatchImages(Node, category="image/batch", title="Rebatch Images", aliases=("split batch", "list to batch")):
    """Pictures in batches of one size: several batches joined, or one cut; the last may be smaller."""

    images: Annotated[list[Image], Field(description="All have to be of one size to share a batch.")]
    batch_size: BatchSize = 1

    def run(self, ctx: Context) -> list[Image]:
        single = [row for image in self.images for row in image.pixels.split(1)]
        batches = [single[i : i + self.batch_size] for i in range(0, len(single), self.batch_size)]
        for batch in batches:
            if len({row.shape for row in batch}) > 1:
                raise ValueError(
                    f"images: pictures of one size are wanted in a batch, {sorted({tuple(row.shape[1:]) for row in batch})} given"
                )
        return [Image(torch.cat(batch)) for batch in batches]


def rows(latents: list[Latent]) -> list[tuple[Tensor, Tensor | None, int, str | None]]:
    """Every latent of every batch: itself, its noise mask, which noise it draws (in order where its batch does not say), its format."""
    found: list[tuple[Tensor, Tensor | None, int, str | None]] = []
    for latent in latents:
        mask = latent.noise_mask
        if mask is not None:
            height, width = (side * CELL for side in latent.x.shape[-2:])
            mask = repeat_to(resize(mask, width, height, "bilinear"), len(latent.x))
        indices = latent.batch_index or tuple(range(len(found), len(found) + len(latent.x)))
        for i, index in enumerate(indices):
            found.append((latent.x[i : i + 1], None if mask is None else mask[i : i + 1], index, latent.format))
    return found


def joined(batch: list[tuple[Tensor, Tensor | None, int, str | None]]) -> Latent:
    """One batch of rows; where only some have a noise mask, the others may change everywhere."""
    x = torch.cat([row[0] for row in batch])
    masks = [row[1] for row in batch]
    first = next((mask for mask in masks if mask is not None), None)
    whole = None if first is None else torch.cat([torch.ones_like(first) if mask is None else mask for mask in masks])
    return Latent(x, whole, tuple(row[2] for row in batch), next((row[3] for row in batch if row[3] is not None), None))


class RebatchLatents(Node, category="latent/batch", title="Rebatch Latents", aliases=("split batch", "list to batch")):
    """Latents in batches of one size: several batches joined, or one cut. Where the picture's size changes, a new batch begins.

    Each latent keeps the noise that it would have drawn before.
    """

    latents: list[Latent]
    batch_size: BatchSize = 1

    def run(self, ctx: Context) -> list[Latent]:
        batches: list[list[tuple[Tensor, Tensor | None, int, str | None]]] = []
        for row in rows(self.latents):
            if not batches or len(batches[-1]) == self.batch_size or batches[-1][-1][0].shape != row[0].shape:
                batches.append([])
            batches[-1].append(row)
        return [joined(batch) for batch in batches]
