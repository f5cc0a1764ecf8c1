"""Batches of latents: take some out, repeat, join, and which noise each draws."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field

from diffusion.batch import repeat_to
from diffusion.image import resize
from diffusion.values import Latent
from graph_engine.node import Node
from nodes.params import number

if TYPE_CHECKING:
    from graph_engine.context import Context


class LatentFromBatch(Node, category="latent/batch", title="Latent From Batch"):
    """Take some latents out of a batch; each still draws the noise that it would draw there."""

    samples: Latent
    batch_index: Annotated[int, number(0, 63, 1, "The first one, counted from 0; the last of the batch if there are fewer.")] = 0
    length: Annotated[int, number(1, 64, 1, "How many, as far as there are.")] = 1

    def run(self, ctx: Context) -> Latent:
        total = self.samples.x.shape[0]
        first = min(self.batch_index, total - 1)
        rows = slice(first, min(first + self.length, total))
        mask = self.samples.noise_mask
        if mask is not None and mask.shape[0] > 1:
            mask = repeat_to(mask, total)[rows]
        indices = self.samples.batch_index or tuple(range(total))
        return dataclasses.replace(self.samples, x=self.samples.x[rows], noise_mask=mask, batch_index=indices[rows])


class RepeatLatentBatch(Node, category="latent/batch", title="Repeat Latent Batch"):
    """The whole batch several times; every copy draws noise of its own."""

    samples: Latent
    amount: Annotated[int, number(1, 64, 1, "How many times.")] = 1

    def run(self, ctx: Context) -> Latent:
        x, mask, indices = self.samples.x, self.samples.noise_mask, self.samples.batch_index
        if mask is not None and mask.shape[0] > 1:
            mask = repeat_to(mask, x.shape[0]).repeat(self.amount, 1, 1, 1)
        if indices is not None:
            offset = max(indices) - min(indices) + 1
            indices = tuple(index + copy * offset for copy in range(self.amount) for index in indices)
        return dataclasses.replace(self.samples, x=x.repeat(self.amount, 1, 1, 1), noise_mask=mask, batch_index=indices)


class LatentBatch(Node, category="latent/batch", title="Batch Latents", deprecated=True):
    """Two batches one after the other, the second resized to the first, whose noise mask, if any, counts for both."""

    samples1: Latent
    samples2: Latent

    def run(self, ctx: Context) -> Latent:
        a, b = self.samples1, self.samples2
        x = b.x.to(a.x)
        if x.shape[1] != a.x.shape[1]:
            raise ValueError(f"samples2: {a.x.shape[1]} channels are wanted as in samples1, {x.shape[1]} given")
        if x.shape[-2:] != a.x.shape[-2:]:
            x = resize(x, a.x.shape[3], a.x.shape[2], "bilinear", "center")
        indices = (a.batch_index or tuple(range(len(a.x)))) + (b.batch_index or tuple(range(len(b.x))))
        return Latent(torch.cat([a.x, x]), a.noise_mask, indices, a.format or b.format)


class LatentBatchSeedBehavior(Node, category="latent/batch", title="Latent Batch Seed Behavior"):
    """Whether the latents of a batch draw different noise or all the same."""

    samples: Latent
    seed_behavior: Annotated[
        Literal["random", "fixed"],
        Field(description="random: each its own noise; fixed: all that of the first."),
    ] = "fixed"

    def run(self, ctx: Context) -> Latent:
        first = (self.samples.batch_index or (0,))[0]
        indices = (first,) * self.samples.x.shape[0] if self.seed_behavior == "fixed" else None
        return dataclasses.replace(self.samples, batch_index=indices)
