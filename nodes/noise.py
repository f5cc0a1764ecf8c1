"""The forward process as a node: a picture or a latent with noise of a given level."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import Field
from torch import Tensor

from diffusion import values
from diffusion.family import family
from diffusion.noise import prepare_noise
from diffusion.schedule import Table
from diffusion.vae import encode
from diffusion.values import VAE, Image, Latent, Model, Sigmas
from graph_engine.node import Node
from nodes.params import Seed, number

if TYPE_CHECKING:
    from graph_engine.context import Context


def sigma_of(table: Table, level: float, unit: str) -> float:
    """The noise level σ that a level means: a share of the training timesteps (0 is clean, 1 the noisiest), a timestep, or σ itself."""
    top = len(table) - 1
    if unit == "fraction":
        if level > 1:
            raise ValueError(f"level: a fraction from 0 to 1 is wanted, {level} given")
        return table.sigma(level * top) if level > 0 else 0.0
    if unit == "timestep":
        if level > top:
            raise ValueError(f"level: a timestep from 0 to {top} is wanted by this model, {level} given")
        return table.sigma(level)
    return level


def diffused(x0: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """x_t = √ᾱ·x0 + √(1−ᾱ)·ε with ᾱ = 1 / (1 + σ²) (Ho et al. 2020, eq. 4)."""
    return (x0 + sigma * noise) / math.sqrt(1 + sigma**2)


class NoiseToLevel(Node, category="latent/noise", name="Noise", title="Noise to Level", aliases=("forward process", "add noise")):
    """Noise a latent, or a picture through the VAE, to one level of the model's forward process (Ho et al. 2020, eq. 4)."""

    model: Annotated[Model, Field(description="Whose levels and latent scale count.")]
    samples: Annotated[Latent | Image, Field(description="A latent, or a picture, which then needs the VAE.")]
    vae: Annotated[VAE | None, Field(description="Encodes a picture; not needed for a latent.")] = None
    seed: Seed = 0
    level: Annotated[float, number(0, 1e9, 0.01, "How much noise, in the unit below.", round=False)] = 0.5
    unit: Annotated[
        Literal["fraction", "timestep", "sigma"],
        Field(description="fraction: share of the training timesteps, 1 the noisiest; sigma: standard deviation over a clean signal."),
    ] = "fraction"

    class Out(NamedTuple):
        latent: Annotated[Latent, Field(description="x0 + σ·noise: what a sampler without added noise goes on from.")]
        x_t: Annotated[Latent, Field(description="√ᾱ·x0 + √(1−ᾱ)·noise: the same scaled to the variance of a clean latent, to look at.")]
        sigmas: Annotated[Sigmas, Field(description="The level, as a list of one.")]
        sigma: float
        timestep: Annotated[int, Field(description="The nearest timestep of the model.")]

    @classmethod
    def check(cls, inputs: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        level = inputs.get("level")
        if inputs.get("unit", "fraction") == "fraction" and isinstance(level, (int, float)) and level > 1:
            yield "level", f"a fraction from 0 to 1 is wanted, {level} given"

    def run(self, ctx: Context) -> Out:
        clean = self._latent(ctx)
        table, form = self.model.process.table(), family(self.model.weights.family).latent
        if clean.x.shape[1] != form.channels or clean.format not in (None, form.name):
            wanted = f"a {form.name} latent of {form.channels} channels"
            raise ValueError(f"samples: {wanted} is wanted by this model, {clean.format or ''} with {clean.x.shape[1]} given")
        sigma = sigma_of(table, self.level, self.unit)
        x0 = clean.x.float() * form.scale
        noise = prepare_noise(x0.shape, self.seed, clean.batch_index).to(x0)
        told = dataclasses.replace(clean, format=form.name)
        return self.Out(
            latent=dataclasses.replace(told, x=(x0 + sigma * noise) / form.scale),
            x_t=dataclasses.replace(told, x=diffused(x0, noise, sigma) / form.scale),
            sigmas=Sigmas(x0.new_tensor([sigma]).cpu()),
            sigma=sigma,
            timestep=table.t(sigma),
        )

    def _latent(self, ctx: Context) -> Latent:
        if isinstance(self.samples, Latent):
            return self.samples
        if self.vae is None:
            raise ValueError("vae: a VAE is wanted to noise a picture, none given")
        return encode(self.vae, self.samples, ctx.device)


class AddNoise(Node, category="sampling/custom_sampling/noise", title="Add Noise", aliases=("renoise",)):
    """A latent plus noise of the range of given levels: |first − last|, or the one level there is."""

    model: Model
    noise: values.Noise
    sigmas: Sigmas
    latent_image: Latent

    def run(self, ctx: Context) -> Latent:
        levels, latent = self.sigmas.values, self.latent_image
        if len(levels) == 0:
            return latent
        strength = abs(levels[0] - levels[-1]).item() if len(levels) > 1 else levels[0].item()
        if self.noise.seed is None:
            return latent
        scale = family(self.model.weights.family).latent.scale
        noise = prepare_noise(latent.x.shape, self.noise.seed, latent.batch_index).to(latent.x)
        return dataclasses.replace(latent, x=(latent.x * scale + noise * strength) / scale)
