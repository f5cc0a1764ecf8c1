"""Noise levels to visit: made by a rule, cut, turned round."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import torch
from pydantic import Field

from diffusion import spacing
from diffusion.align_your_steps import align_your_steps
from diffusion.values import Model, Sigmas
from graph_engine.node import Node
from nodes.params import Denoise, SchedulerName, SigmaLevel, StepNumber, Steps, number

if TYPE_CHECKING:
    from graph_engine.context import Context

MAKE, CUT = "sampling/custom_sampling/schedulers", "sampling/custom_sampling/sigmas"


class BasicScheduler(Node, category=MAKE, title="Basic Scheduler", aliases=("sigmas",)):
    """The levels of a model in a named spacing; with denoise below 1 the clean end of a longer list."""

    model: Model
    scheduler: SchedulerName
    steps: Steps = 20
    denoise: Denoise = 1.0

    def run(self, ctx: Context) -> Sigmas:
        values = spacing.sigmas_for(self.model.process.table(), self.scheduler, self.steps, self.denoise)
        return Sigmas(values[-(self.steps + 1) :])  # ddim_uniform may give more than were asked for


class KarrasScheduler(Node, category=MAKE, title="Karras Scheduler", aliases=("sigmas",)):
    """Even in sigma^(1/rho) (Karras et al. 2022, eq. 5)."""

    steps: Steps = 20
    sigma_max: SigmaLevel = 14.614642
    sigma_min: SigmaLevel = 0.0291675
    rho: Annotated[float, number(0, 100, 0.01, "Larger takes more steps at low noise.", round=False)] = 7.0

    def run(self, ctx: Context) -> Sigmas:
        if self.rho == 0:
            raise ValueError("rho: a number above 0 is wanted, 0 given")
        return Sigmas(spacing.karras(self.steps, self.sigma_min, self.sigma_max, self.rho))


class ExponentialScheduler(Node, category=MAKE, title="Exponential Scheduler", aliases=("sigmas",)):
    """Even in log sigma."""

    steps: Steps = 20
    sigma_max: SigmaLevel = 14.614642
    sigma_min: SigmaLevel = 0.0291675

    def run(self, ctx: Context) -> Sigmas:
        _positive(self.sigma_max, self.sigma_min)
        return Sigmas(spacing.exponential(self.steps, self.sigma_min, self.sigma_max))


class PolyexponentialScheduler(Node, category=MAKE, title="Polyexponential Scheduler", aliases=("sigmas",)):
    """A power of an even ramp in log sigma; rho 1 is the exponential one."""

    steps: Steps = 20
    sigma_max: SigmaLevel = 14.614642
    sigma_min: SigmaLevel = 0.0291675
    rho: Annotated[float, number(0, 100, 0.01, "Larger takes more steps at low noise.", round=False)] = 1.0

    def run(self, ctx: Context) -> Sigmas:
        _positive(self.sigma_max, self.sigma_min)
        return Sigmas(spacing.polyexponential(self.steps, self.sigma_min, self.sigma_max, self.rho))


class LaplaceScheduler(Node, category=MAKE, title="Laplace Scheduler", aliases=("sigmas",)):
    """Quantiles of a Laplace distribution of log sigma (Hang & Gu 2024); its list does not end with 0."""

    steps: Steps = 20
    sigma_max: SigmaLevel = 14.614642
    sigma_min: SigmaLevel = 0.0291675
    mu: Annotated[float, number(-10, 10, 0.1, "The middle of log sigma.", round=False)] = 0.0
    beta: Annotated[float, number(0, 10, 0.1, "How far log sigma spreads.", round=False)] = 0.5

    def run(self, ctx: Context) -> Sigmas:
        return Sigmas(spacing.laplace(self.steps, self.sigma_min, self.sigma_max, self.mu, self.beta))


class VPScheduler(Node, category=MAKE, title="VP Scheduler", aliases=("sigmas",)):
    """Even in the time of the continuous VP process (Song et al. 2021)."""

    steps: Steps = 20
    beta_d: Annotated[float, number(0, 5000, 0.01, "Slope of the noise rate.", round=False)] = 19.9
    beta_min: Annotated[float, number(0, 5000, 0.01, "Noise rate at the start.", round=False)] = 0.1
    eps_s: Annotated[float, number(0, 1, 0.0001, "The last time.", round=False)] = 0.001

    def run(self, ctx: Context) -> Sigmas:
        return Sigmas(spacing.vp(self.steps, self.beta_d, self.beta_min, self.eps_s))


class BetaSamplingScheduler(Node, category=MAKE, title="Beta Scheduler", aliases=("sigmas",)):
    """Quantiles of a Beta distribution of the timestep (Lee et al. 2024); with 1 and 1 they are even."""

    model: Model
    steps: Steps = 20
    alpha: Annotated[float, number(0, 50, 0.01, "Below 1 takes more steps at high noise.", round=False)] = 0.6
    beta: Annotated[float, number(0, 50, 0.01, "Below 1 takes more steps at low noise.", round=False)] = 0.6

    def run(self, ctx: Context) -> Sigmas:
        if self.alpha == 0 or self.beta == 0:
            raise ValueError(f"alpha, beta: numbers above 0 are wanted, {self.alpha} and {self.beta} given")
        return Sigmas(spacing.beta(self.model.process.table(), self.steps, self.alpha, self.beta))


class SDTurboScheduler(Node, category=MAKE, title="SD Turbo Scheduler", aliases=("sigmas",)):
    """The few levels that a distilled turbo model knows (Sauer et al. 2023)."""

    model: Model
    steps: Annotated[int, number(1, 10, 1, "How many denoising steps.")] = 1
    denoise: Denoise = 1.0

    def run(self, ctx: Context) -> Sigmas:
        return Sigmas(spacing.sd_turbo(self.model.process.table(), self.steps, self.denoise))


class AlignYourStepsScheduler(Node, category=MAKE, title="Align Your Steps Scheduler", aliases=("sigmas", "ays")):
    """Levels optimised for few steps on one family of models (Sabour et al. 2024)."""

    model_type: Annotated[Literal["SD1", "SDXL", "SVD"], Field(description="The family of models that the levels were made for.")] = "SD1"
    steps: Annotated[Steps, Field(description="Steps of the whole schedule; the table itself has 10.")] = 10
    denoise: Annotated[Denoise, Field(description="The share of the steps to take, at the clean end.")] = 1.0

    def run(self, ctx: Context) -> Sigmas:
        return Sigmas(align_your_steps(self.model_type, self.steps, self.denoise))


def _positive(sigma_max: float, sigma_min: float) -> None:
    if sigma_max <= 0 or sigma_min <= 0:
        raise ValueError(f"sigma_max, sigma_min: levels above 0 are wanted, {sigma_max} and {sigma_min} given")


class SplitSigmas(Node, category=CUT, title="Split Sigmas"):
    """The levels before and after a step; both lists hold the level between them."""

    sigmas: Sigmas
    step: StepNumber = 0

    class Out(NamedTuple):
        high_sigmas: Sigmas
        low_sigmas: Sigmas

    def run(self, ctx: Context) -> Out:
        return self.Out(*map(Sigmas, spacing.split(self.sigmas.values, self.step)))


class SplitSigmasDenoise(Node, category=CUT, title="Split Sigmas (Denoise)"):
    """The levels before and after the point from which the share `denoise` of the steps remains."""

    sigmas: Sigmas
    denoise: Denoise = 1.0

    class Out(NamedTuple):
        high_sigmas: Sigmas
        low_sigmas: Sigmas

    def run(self, ctx: Context) -> Out:
        return self.Out(*map(Sigmas, spacing.split_denoise(self.sigmas.values, self.denoise)))


class FlipSigmas(Node, category=CUT, title="Flip Sigmas", aliases=("invert schedule", "reverse")):
    """The levels from clean to noisy, for walking back to noise."""

    sigmas: Sigmas

    def run(self, ctx: Context) -> Sigmas:
        return Sigmas(spacing.flip(self.sigmas.values))


class SetFirstSigma(Node, category=CUT, title="Set First Sigma"):
    """Start from another level."""

    sigmas: Sigmas
    sigma: Annotated[float, number(0, 20000, 0.001, "The new first level.", round=False)] = 136.0

    def run(self, ctx: Context) -> Sigmas:
        return Sigmas(torch.cat([self.sigmas.values.new_tensor([self.sigma]), self.sigmas.values[1:]]))
