"""The two all-in-one sampling nodes of saved graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from diffusion.guidance import CFG
from diffusion.preview import jpeg
from diffusion.sample import sample
from diffusion.spacing import advanced_range, sigmas_for
from diffusion.values import Conditioning, Guider, Latent, Model, Noise, Sampler, Sigmas
from graph_engine.node import Node
from nodes.params import Denoise, SamplerName, Scale, SchedulerName, Seed, StepNumber, Steps

if TYPE_CHECKING:
    from graph_engine.context import Context

Positive = Annotated[Conditioning, Field(description="What the picture should show.")]
Negative = Annotated[Conditioning, Field(description="What it should not show.")]


class KSampler(Node, category="sampling", aliases=("sampler", "denoise", "txt2img", "img2img")):
    """Denoise a latent from a seed; with denoise below 1 its present content shows through (SDEdit, Meng et al. 2022)."""

    model: Annotated[Model, Field(description="The denoiser.")]
    seed: Seed = 0
    steps: Steps = 20
    cfg: Scale = 8.0
    sampler_name: SamplerName
    scheduler: SchedulerName
    positive: Positive
    negative: Negative
    latent_image: Annotated[Latent, Field(description="What to start from; an empty latent for a new picture.")]
    denoise: Denoise = 1.0

    def run(self, ctx: Context) -> Latent:
        sigmas = sigmas_for(self.model.process.table(), self.scheduler, self.steps, self.denoise, self.sampler_name)
        guider = Guider(self.model, CFG(self.positive, self.negative, self.cfg))
        return sample(
            guider,
            Noise(self.seed),
            Sampler.of(self.sampler_name),
            Sigmas(sigmas),
            self.latent_image,
            ctx.device,
            on_step=lambda i, n, x0: ctx.step(i, n, lambda: jpeg(x0, self.model.weights)),
        )[0]


class KSamplerAdvanced(Node, category="sampling", title="KSampler (Advanced)", aliases=("two stages", "refiner")):
    """Walk a part of a schedule's steps, from a fresh or an already noisy latent, all the way down or with noise left over."""

    model: Annotated[Model, Field(description="The denoiser.")]
    add_noise: Annotated[
        Literal["enable", "disable"], Field(description="disable: the latent already has the noise of the first step.")
    ] = "enable"
    noise_seed: Seed = 0
    steps: Annotated[Steps, Field(description="Steps of the whole schedule.")] = 20
    cfg: Scale = 8.0
    sampler_name: SamplerName
    scheduler: SchedulerName
    positive: Positive
    negative: Negative
    latent_image: Annotated[Latent, Field(description="What to start from.")]
    start_at_step: Annotated[StepNumber, Field(description="The first step to take, counted from 0.")] = 0
    end_at_step: Annotated[StepNumber, Field(description="The step to stop before.")] = 10000
    return_with_leftover_noise: Annotated[
        Literal["disable", "enable"],
        Field(description="enable: stop at the level of the last step; disable: let the last step go to a clean latent."),
    ] = "disable"

    def run(self, ctx: Context) -> Latent:
        whole = sigmas_for(self.model.process.table(), self.scheduler, self.steps, sampler=self.sampler_name)
        sigmas = advanced_range(whole, self.start_at_step, self.end_at_step, self.return_with_leftover_noise == "enable")
        guider = Guider(self.model, CFG(self.positive, self.negative, self.cfg))
        return sample(
            guider,
            Noise(self.noise_seed if self.add_noise == "enable" else None),
            Sampler.of(self.sampler_name),
            Sigmas(sigmas),
            self.latent_image,
            ctx.device,
            seed=self.noise_seed,
            on_step=lambda i, n, x0: ctx.step(i, n, lambda: jpeg(x0, self.model.weights)),
        )[0]
