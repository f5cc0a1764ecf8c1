"""Latents combined with each other or by a number."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from torch import Tensor

from diffusion.batch import repeat_to
from diffusion.image import resize
from diffusion.mask import blend
from diffusion.values import Latent
from graph_engine.node import Node
from nodes.params import Unit, number

if TYPE_CHECKING:
    from graph_engine.context import Context


def fitted(other: Latent, like: Latent, method: str = "bilinear") -> Tensor:
    """The second latent's x at the size and batch of the first: resized around its centre, rows repeated or cut."""
    x = other.x.to(like.x)
    if other.format is not None and like.format is not None and other.format != like.format:
        raise ValueError(f"samples2: a {like.format} latent is wanted as in samples1, {other.format} given")
    if x.shape[1] != like.x.shape[1]:
        raise ValueError(f"samples2: {like.x.shape[1]} channels are wanted as in samples1, {x.shape[1]} given")
    if x.shape[-2:] != like.x.shape[-2:]:
        x = resize(x, like.x.shape[3], like.x.shape[2], method, "center")
    return repeat_to(x, like.x.shape[0])


class LatentAdd(Node, category="latent/advanced", title="Add Latents"):
    """The sum of two latents."""

    samples1: Latent
    samples2: Latent

    def run(self, ctx: Context) -> Latent:
        return dataclasses.replace(self.samples1, x=self.samples1.x + fitted(self.samples2, self.samples1))


class LatentSubtract(Node, category="latent/advanced", title="Subtract Latents"):
    """The first latent less the second."""

    samples1: Latent
    samples2: Latent

    def run(self, ctx: Context) -> Latent:
        return dataclasses.replace(self.samples1, x=self.samples1.x - fitted(self.samples2, self.samples1))


class LatentMultiply(Node, category="latent/advanced", title="Multiply Latent"):
    """A latent times a number."""

    samples: Latent
    multiplier: Annotated[float, number(-10, 10, 0.01, "What every value is multiplied by.")] = 1.0

    def run(self, ctx: Context) -> Latent:
        return dataclasses.replace(self.samples, x=self.samples.x * self.multiplier)


class LatentInterpolate(Node, category="latent/advanced", title="Interpolate Latents", aliases=("slerp", "morph")):
    """Between two latents: the directions of the channel vectors and their lengths are mixed apart, so that a mixture does not fade."""

    samples1: Latent
    samples2: Latent
    ratio: Annotated[Unit, Field(description="1: only samples1; 0: only samples2.")] = 1.0

    def run(self, ctx: Context) -> Latent:
        a, b = self.samples1.x, fitted(self.samples2, self.samples1)
        norm_a, norm_b = a.norm(dim=1, keepdim=True), b.norm(dim=1, keepdim=True)
        mixed = (a / norm_a).nan_to_num() * self.ratio + (b / norm_b).nan_to_num() * (1 - self.ratio)
        direction = (mixed / mixed.norm(dim=1, keepdim=True)).nan_to_num()
        return dataclasses.replace(self.samples1, x=direction * (norm_a * self.ratio + norm_b * (1 - self.ratio)))


class LatentBlend(Node, category="latent/advanced", title="Blend Latents", aliases=("latent blend", "mix")):
    """A mixture of two latents: samples1 · factor + samples2 · (1 − factor)."""

    samples1: Latent
    samples2: Annotated[Latent, Field(description="Resized to samples1 where it differs.")]
    blend_factor: Annotated[Unit, Field(description="1: only samples1; 0: only samples2.")] = 0.5

    def run(self, ctx: Context) -> Latent:
        first, second = self.samples1, self.samples2
        if len(first.x) == 1 < len(second.x):  # with each of several
            first = dataclasses.replace(first, x=repeat_to(first.x, len(second.x)), batch_index=first.batch_index and second.batch_index)
        return dataclasses.replace(first, x=blend(first.x, fitted(second, first, "bicubic"), self.blend_factor))
