"""Sampling algorithms by name, and some with their options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from diffusion.values import Sampler
from graph_engine.node import Node
from nodes.params import Eta, NoiseDevice, NoiseFactor, SamplerName, number

if TYPE_CHECKING:
    from graph_engine.context import Context

CATEGORY = "sampling/custom_sampling/samplers"


class KSamplerSelect(Node, category=CATEGORY):
    """A sampler with its usual options."""

    sampler_name: SamplerName

    def run(self, ctx: Context) -> Sampler:
        return Sampler.of(self.sampler_name)


class SamplerEulerAncestral(Node, category=CATEGORY):
    """Euler steps with fresh noise (Song et al. 2021, ancestral sampling)."""

    eta: Eta = 1.0
    s_noise: NoiseFactor = 1.0

    def run(self, ctx: Context) -> Sampler:
        return Sampler.of("euler_ancestral", eta=self.eta, s_noise=self.s_noise)


class SamplerDPMPP_2S_Ancestral(Node, category=CATEGORY):
    """DPM-Solver++(2S) with fresh noise (Lu et al. 2022)."""

    eta: Eta = 1.0
    s_noise: NoiseFactor = 1.0

    def run(self, ctx: Context) -> Sampler:
        return Sampler.of("dpmpp_2s_ancestral", eta=self.eta, s_noise=self.s_noise)


class SamplerDPMPP_2M_SDE(Node, category=CATEGORY):
    """SDE-DPM-Solver++(2M) (Lu et al. 2022)."""

    solver_type: Annotated[Literal["midpoint", "heun"], Field(description="How the estimates of two levels are joined.")] = "midpoint"
    eta: Eta = 1.0
    s_noise: NoiseFactor = 1.0
    noise_device: NoiseDevice = "gpu"

    def run(self, ctx: Context) -> Sampler:
        return Sampler.of("dpmpp_2m_sde", eta=self.eta, s_noise=self.s_noise, solver_type=self.solver_type)


class SamplerDPMPP_3M_SDE(Node, category=CATEGORY):
    """SDE-DPM-Solver++(3M) (Lu et al. 2022)."""

    eta: Eta = 1.0
    s_noise: NoiseFactor = 1.0
    noise_device: NoiseDevice = "gpu"

    def run(self, ctx: Context) -> Sampler:
        return Sampler.of("dpmpp_3m_sde", eta=self.eta, s_noise=self.s_noise)


class SamplerDPMPP_SDE(Node, category=CATEGORY):
    """SDE-DPM-Solver++(2S) (Lu et al. 2022)."""

    eta: Eta = 1.0
    s_noise: NoiseFactor = 1.0
    r: Annotated[float, number(0, 100, 0.01, "Where between two levels the stage lies, as a share of the step.", round=False)] = 0.5
    noise_device: NoiseDevice = "gpu"

    def run(self, ctx: Context) -> Sampler:
        return Sampler.of("dpmpp_sde", eta=self.eta, s_noise=self.s_noise, r=self.r)


class SamplerLMS(Node, category=CATEGORY):
    """Linear multistep (Adams–Bashforth in the noise level)."""

    order: Annotated[int, number(1, 100, 1, "How many earlier steps count.", advanced=True)] = 4

    def run(self, ctx: Context) -> Sampler:
        return Sampler.of("lms", order=self.order)
