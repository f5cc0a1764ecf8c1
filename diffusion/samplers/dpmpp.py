"""DPM-Solver++ and its kin: exponential integrators of D in lambda = -ln sigma, as ODE and as SDE.

With h = lambda_next - lambda the linear part is exact, X <- e^-h X + (1 - e^-h) D, and what differs is how D is
continued over the step. eta adds noise and damps by e^(-h eta) more (Lu et al. 2022b, eq. 12 and appendix A).
"""

from __future__ import annotations

import math

from torch import Tensor

from diffusion.samplers.euler import ancestral
from diffusion.samplers.levels import level_between
from diffusion.samplers.loop import Denoise, NoiseSource, Stepper
from diffusion.schedule import Step


def _fresh(noise: NoiseSource, s: Step, h_eta: float, s_noise: float) -> Tensor:
    """The noise of an SDE step: variance sigma_next^2 (1 - e^(-2 h eta))."""
    return noise(s.sigma, s.sigma_next) * (s.sigma_next * math.sqrt(-math.expm1(-2 * h_eta)) * s_noise)


def dpmpp_2m() -> Stepper:
    """DPM-Solver++(2M): D extrapolated from two levels to the middle of the step (Lu et al. 2022b, alg. 2)."""
    return dpmpp_2m_sde(eta=0.0)


def dpmpp_2m_sde(eta: float = 1.0, s_noise: float = 1.0, solver_type: str = "midpoint") -> Stepper:
    """SDE-DPM-Solver++(2M); "midpoint" holds D at mid-step, "heun" integrates the line through both D's."""
    if solver_type not in ("midpoint", "heun"):
        raise ValueError(f"solver_type: midpoint or heun is wanted, got {solver_type!r}")
    past: list[tuple[Tensor, float]] = []  # (D, h) of the step before

    def step(denoise: Denoise, x: Tensor, s: Step, noise: NoiseSource) -> tuple[Tensor, Tensor]:
        x0 = denoise(x, s.sigma)
        if s.sigma_next == 0:
            return x0, x0
        h = math.log(s.sigma / s.sigma_next)
        k = h * (1 + eta)
        x = math.exp(-k) * x - math.expm1(-k) * x0
        if past:
            x0_prev, h_prev = past[0]
            weight = -math.expm1(-k) / 2 if solver_type == "midpoint" else 1 + math.expm1(-k) / k
            x = x + weight * h / h_prev * (x0 - x0_prev)
        past[:] = [(x0, h)]
        return (x + _fresh(noise, s, h * eta, s_noise) if eta > 0 else x), x0

    return step


def dpmpp_3m_sde(eta: float = 1.0, s_noise: float = 1.0) -> Stepper:
    """SDE-DPM-Solver++(3M): D' and D'' from three levels, x + phi_2 D' - phi_3 D'' with k = h (1 + eta).

    As published (Lu et al. 2022b, appendix B) the second divided difference stands for D'', which is twice as large.
    The order therefore stays 2, with a smaller error than 2M.
    """
    past: list[tuple[Tensor, float]] = []  # (D, h), newest first

    def step(denoise: Denoise, x: Tensor, s: Step, noise: NoiseSource) -> tuple[Tensor, Tensor]:
        x0 = denoise(x, s.sigma)
        if s.sigma_next == 0:
            return x0, x0
        h = math.log(s.sigma / s.sigma_next)
        k = h * (1 + eta)
        phi_2 = 1 + math.expm1(-k) / k
        phi_3 = phi_2 / k - 0.5
        x = math.exp(-k) * x - math.expm1(-k) * x0
        if past:
            x0_1, r_0 = past[0][0], past[0][1] / h
            d_1 = (x0 - x0_1) / r_0
            if len(past) > 1:
                x0_2, r_1 = past[1][0], past[1][1] / h
                d_12 = (x0_1 - x0_2) / r_1
                d_2 = (d_1 - d_12) / (r_0 + r_1)
                x = x + phi_2 * (d_1 + d_2 * r_0) - phi_3 * d_2
            else:
                x = x + phi_2 * d_1
        past.insert(0, (x0, h))
        del past[2:]
        return (x + _fresh(noise, s, h * eta, s_noise) if eta > 0 else x), x0

    return step


def dpmpp_sde(eta: float = 1.0, s_noise: float = 1.0, r: float = 0.5) -> Stepper:
    """SDE-DPM-Solver++(2S): a stage at lambda + r h, then the step, each ancestral, on one Brownian motion."""
    if not 0 < r <= 1:
        raise ValueError(f"r: a share of the step, 0 < r <= 1, is wanted, got {r}")

    def step(denoise: Denoise, x: Tensor, s: Step, noise: NoiseSource) -> tuple[Tensor, Tensor]:
        x0 = denoise(x, s.sigma)
        if s.sigma_next == 0:
            return x0, x0

        def move(x0: Tensor, level: float) -> Tensor:
            """From X at s.sigma to a lower level, with D held."""
            down, up = ancestral(s.sigma, level, eta)
            y = down / s.sigma * x + (1 - down / s.sigma) * x0
            return y + noise(s.sigma, level) * (s_noise * up) if up > 0 else y

        stage = level_between(s.sigma, s.sigma_next, r)
        x0_stage = denoise(move(x0, stage), stage)
        share = 1 / (2 * r)
        return move((1 - share) * x0 + share * x0_stage, s.sigma_next), x0

    return step


def res_multistep(eta: float = 0.0, s_noise: float = 1.0) -> Stepper:
    """Exponential Adams-Bashforth of order 2: D as the line through two levels, integrated exactly, to sigma_down.

    Hochbruck and Ostermann 2010, eq. 2.62; called "refined exponential solver" by Zhang et al. 2023.
    """
    past: list[tuple[Tensor, float]] = []  # D of the step before, and how far it went in lambda without its noise

    def step(denoise: Denoise, x: Tensor, s: Step, noise: NoiseSource) -> tuple[Tensor, Tensor]:
        x0 = denoise(x, s.sigma)
        down, up = ancestral(s.sigma, s.sigma_next, eta)
        h = math.log(s.sigma / down) if down > 0 else math.inf
        y = math.exp(-h) * x - math.expm1(-h) * x0
        if past and down > 0:
            x0_prev, h_prev = past[0]
            y = y + (h + math.expm1(-h)) / h_prev * (x0 - x0_prev)
        past[:] = [(x0, h)]
        return (y + noise(s.sigma, s.sigma_next) * (s_noise * up) if up > 0 else y), x0

    return step


def res_multistep_ancestral(eta: float = 1.0, s_noise: float = 1.0) -> Stepper:
    """`res_multistep` with ancestral noise."""
    return res_multistep(eta, s_noise)
