"""Sampling algorithms by name, and some with their options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from diffusion.samplers import SAMPLERS
from diffusion.values import Model, Sampler
from graph_engine.node import Node
from nodes.params import Eta, NoiseDevice, NoiseFactor, SamplerName, number

if TYPE_CHECKING:
    from graph_engine.context import Context

CATEGORY = "sampling/custom_sampling/samplers"


class KSamplerSelect(Node, category=CATEGORY, title="KSampler Select", aliases=("sampler name",)):
    """A sampler with its usual options."""

    sampler_name: SamplerName

    def run(self, ctx: Context) -> Sampler:
        return Sampler.of(self.sampler_name)


class SamplerEulerAncestral(Node, category=CATEGORY, title="Sampler: Euler Ancestral"):
    """Euler steps with fresh noise (Song et al. 2021, ancestral sampling)."""

    eta: Eta = 1.0
    s_noise: NoiseFactor = 1.0

    def run(self, ctx: Context) -> Sampler:
        return Sampler.of("euler_ancestral", eta=self.eta, s_noise=self.s_noise)


class SamplerDPMPP_2S_Ancestral(Node, category=CATEGORY, title="Sampler: DPM++ 2S Ancestral"):
    """DPM-Solver++(2S) with fresh noise (Lu et al. 2022)."""

    eta: Eta = 1.0
    s_noise: NoiseFactor = 1.0

    def run(self, ctx: Context) -> Sampler:
        return Sampler.of("dpmpp_2s_ancestral", eta=self.eta, s_noise=self.s_noise)


class SamplerDPMPP_2M_SDE(Node, category=CATEGORY, title="Sampler: DPM++ 2M SDE"):
    """SDE-DPM-Solver++(2M) (Lu et al. 2022)."""

    solver_type: Annotated[Literal["midpoint", "heun"], Field(description="How the estimates of two levels are joined.")] = "midpoint"
    eta: Eta = 1.0
    s_noise: NoiseFactor = 1.0
    noise_device: NoiseDevice = "gpu"

    def run(self, ctx: Context) -> Sampler:
        return Sampler.of("dpmpp_2m_sde", eta=self.eta, s_noise=self.s_noise, solver_type=self.solver_type)


class SamplerDPMPP_3M_SDE(Node, category=CATEGORY, title="Sampler: DPM++ 3M SDE"):
    """SDE-DPM-Solver++(3M) (Lu et al. 2022)."""

    eta: Eta = 1.0
    s_noise: NoiseFactor = 1.0
    noise_device: NoiseDevice = "gpu"

    def run(self, ctx: Context) -> Sampler:
        return Sampler.of("dpmpp_3m_sde", eta=self.eta, s_noise=self.s_noise)


class SamplerDPMPP_SDE(Node, category=CATEGORY, title="Sampler: DPM++ SDE"):
    """SDE-DPM-Solver++(2S) (Lu et al. 2022)."""

    eta: Eta = 1.0
    s_noise: NoiseFactor = 1.0
    r: Annotated[float, number(0, 100, 0.01, "Where between two levels the stage lies, as a share of the step.", round=False)] = 0.5
    noise_device: NoiseDevice = "gpu"

    def run(self, ctx: Context) -> Sampler:
        return Sampler.of("dpmpp_sde", eta=self.eta, s_noise=self.s_noise, r=self.r)


class SamplerLMS(Node, category=CATEGORY, title="Sampler: LMS", aliases=("linear multistep",)):
    """Linear multistep (Adams–Bashforth in the noise level)."""

    order: Annotated[int, number(1, 100, 1, "How many earlier steps count.", advanced=True)] = 4

    def run(self, ctx: Context) -> Sampler:
        return Sampler.of("lms", order=self.order)


class SamplerEulerAncestralCFGPP(Node, category=CATEGORY, title="Sampler: Euler Ancestral CFG++", aliases=("cfg_pp",)):
    """Euler steps of CFG++ with fresh noise (Chung et al. 2024); it wants a guidance scale near 1."""

    eta: Annotated[float, number(0, 1, 0.01, "How much fresh noise each step adds: 0 none, 1 ancestral.", round=False)] = 1.0
    s_noise: Annotated[float, number(0, 10, 0.01, "Multiplies the fresh noise.", round=False)] = 1.0

    def run(self, ctx: Context) -> Sampler:
        return Sampler.of("euler_ancestral_cfg_pp", eta=self.eta, s_noise=self.s_noise)


def _control(description: str) -> Any:
    return number(0, 100, 0.01, description, round=False, advanced=True)


class SamplerDPMAdaptative(Node, category=CATEGORY, title="Sampler: DPM Adaptive"):
    """DPM-Solver-12 or -23 with steps as long as the error allows (Lu et al. 2022); of the levels only the ends count."""

    order: Annotated[int, number(2, 3, 1, "Order of the solver.", advanced=True)] = 3
    rtol: Annotated[float, _control("How large an error may be, as a share of the value.")] = 0.05
    atol: Annotated[float, _control("How large an error may be in any case.")] = 0.0078
    h_init: Annotated[float, _control("The first step to try, in log sigma.")] = 0.05
    pcoeff: Annotated[float, _control("The step-length controller's answer to the error itself.")] = 0.0
    icoeff: Annotated[float, _control("Its answer to the sum of errors.")] = 1.0
    dcoeff: Annotated[float, _control("Its answer to the change of the error.")] = 0.0
    accept_safety: Annotated[float, _control("A step is taken if the next may be at least this times as long; at most 1.")] = 0.81
    eta: Eta = 0.0
    s_noise: NoiseFactor = 1.0

    def run(self, ctx: Context) -> Sampler:
        return Sampler.of("dpm_adaptive", **{name: getattr(self, name) for name in SAMPLERS["dpm_adaptive"].options})


class SamplerER_SDE(Node, category=CATEGORY, title="Sampler: ER-SDE"):
    """Taylor solvers of a reverse SDE with a free amount of noise (Cui et al. 2023)."""

    solver_type: Annotated[Literal["ER-SDE", "Reverse-time SDE", "ODE"], Field(description="How much noise is added, level by level.")] = (
        "ER-SDE"
    )
    max_stage: Annotated[int, number(1, 3, 1, "From how many levels the estimate is continued.", advanced=True)] = 3
    eta: Annotated[Eta, Field(description="How much noise the reverse-time SDE adds: 0 none; the other types do not read it.")] = 1.0
    s_noise: NoiseFactor = 1.0

    def run(self, ctx: Context) -> Sampler:
        return Sampler.of("er_sde", solver_type=self.solver_type, max_stage=self.max_stage, eta=self.eta, s_noise=self.s_noise)


class SamplerSASolver(Node, category=CATEGORY, title="Sampler: SA-Solver", aliases=("sde", "stochastic adams")):
    """Stochastic Adams predictor and corrector (Xue et al. 2023), with noise in a range of the model's levels."""

    model: Annotated[Model, Field(description="Whose levels the percentages mean.")]
    eta: Annotated[float, number(0, 10, 0.01, "How much noise is added: 0 none, 1 the reverse SDE.", round=False, advanced=True)] = 1.0
    sde_start_percent: Annotated[float, number(0, 1, 0.001, "The share of the way from which noise is added.", advanced=True)] = 0.2
    sde_end_percent: Annotated[float, number(0, 1, 0.001, "The share of the way up to which noise is added.", advanced=True)] = 0.8
    s_noise: NoiseFactor = 1.0
    predictor_order: Annotated[int, number(1, 6, 1, "How many estimates the predictor joins.", advanced=True)] = 3
    corrector_order: Annotated[int, number(0, 6, 1, "How many estimates the corrector joins; 0 leaves it out.", advanced=True)] = 4
    use_pece: Annotated[bool, Field(description="Ask the network again at the corrected state: twice the time.")] = False
    simple_order_2: Annotated[bool, Field(description="Simpler coefficients where two estimates are joined.")] = False

    def run(self, ctx: Context) -> Sampler:
        table = self.model.process.table()
        return Sampler.of(
            "sa_solver",
            eta=self.eta,
            sde_start=table.percent_to_sigma(self.sde_start_percent),
            sde_end=table.percent_to_sigma(self.sde_end_percent),
            s_noise=self.s_noise,
            predictor_order=self.predictor_order,
            corrector_order=self.corrector_order,
            use_pece=self.use_pece,
            simple_order_2=self.simple_order_2,
        )


class SamplerSEEDS2(Node, category=CATEGORY, title="Sampler: SEEDS-2", aliases=("sde", "exp heun")):
    """SEEDS-2 (Gonzalez et al. 2023); with phi_2 and r 1 it is exp_heun_2_x0_sde, and with eta 0 besides exp_heun_2_x0."""

    solver_type: Annotated[
        Literal["phi_1", "phi_2"], Field(description="phi_1 holds a mean of both estimates, phi_2 integrates the line through them.")
    ] = "phi_1"
    eta: Eta = 1.0
    s_noise: NoiseFactor = 1.0
    r: Annotated[float, number(0.01, 1, 0.01, "Where between two levels the stage lies, as a share of the step.", round=False)] = 0.5

    def run(self, ctx: Context) -> Sampler:
        return Sampler.of("seeds_2", eta=self.eta, s_noise=self.s_noise, r=self.r, solver_type=self.solver_type)
