"""Sampling from parts: noise, guider, sampler and noise levels each come over a link."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple

from pydantic import Field

from diffusion.guidance import CFG
from diffusion.preview import jpeg
from diffusion.sample import sample
from diffusion.values import Conditioning, Guider, Latent, Model, Noise, Sampler, Sigmas
from graph_engine.node import Node
from nodes.params import Scale, Seed

if TYPE_CHECKING:
    from graph_engine.context import Context

Start = Annotated[Latent, Field(description="What to start from.")]


class SamplerCustom(Node, category="sampling/custom_sampling", title="Sampler Custom", aliases=("custom sampler",)):
    """Walk a latent through given noise levels with a given sampler."""

    model: Annotated[Model, Field(description="The denoiser.")]
    add_noise: Annotated[bool, Field(description="Off: the latent already has the noise of the first level.")] = True
    noise_seed: Seed = 0
    cfg: Scale = 8.0
    positive: Annotated[Conditioning, Field(description="What the picture should show.")]
    negative: Annotated[Conditioning, Field(description="What it should not show.")]
    sampler: Sampler
    sigmas: Annotated[Sigmas, Field(description="The noise levels to visit.")]
    latent_image: Start

    class Out(NamedTuple):
        output: Annotated[Latent, Field(description="The latent at the last level.")]
        denoised_output: Annotated[Latent, Field(description="The last estimate of the clean latent.")]

    def run(self, ctx: Context) -> Out:
        return self.Out(
            *sample(
                Guider(self.model, CFG(self.positive, self.negative, self.cfg)),
                Noise(self.noise_seed if self.add_noise else None),
                self.sampler,
                self.sigmas,
                self.latent_image,
                ctx.device,
                seed=self.noise_seed,
                on_step=lambda i, n, x0: ctx.step(i, n, lambda: jpeg(x0, self.model.weights)),
            )
        )


class SamplerCustomAdvanced(Node, category="sampling/custom_sampling", title="Sampler Custom (Advanced)", aliases=("custom sampler",)):
    """Walk a latent through given noise levels with a given sampler, guider and noise."""

    noise: Noise
    guider: Guider
    sampler: Sampler
    sigmas: Annotated[Sigmas, Field(description="The noise levels to visit.")]
    latent_image: Start

    class Out(NamedTuple):
        output: Annotated[Latent, Field(description="The latent at the last level.")]
        denoised_output: Annotated[Latent, Field(description="The last estimate of the clean latent.")]

    def run(self, ctx: Context) -> Out:
        return self.Out(
            *sample(
                self.guider,
                self.noise,
                self.sampler,
                self.sigmas,
                self.latent_image,
                ctx.device,
                on_step=lambda i, n, x0: ctx.step(i, n, lambda: jpeg(x0, self.guider.model.weights)),
            )
        )


class RandomNoise(Node, category="sampling/custom_sampling/noise", title="Random Noise", aliases=("seed",)):
    """The noise of a seed."""

    noise_seed: Seed = 0

    def run(self, ctx: Context) -> Noise:
        return Noise(self.noise_seed)


class DisableNoise(Node, category="sampling/custom_sampling/noise", title="Disable Noise", aliases=("no noise",)):
    """No noise: the latent already has that of the first level."""

    def run(self, ctx: Context) -> Noise:
        return Noise(None)
