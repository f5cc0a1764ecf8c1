"""CFG++: the guided estimate says where to go, the unguided one which noise is left there (Chung et al. 2024, alg. 1).

With D the guided estimate and U that of the negative branch, the noise of a state is (X - U) / sigma: guidance moves
the clean end of a step only. Useful scales are near 1. Where U = D each of these is the sampler without "_cfg_pp".
"""

from __future__ import annotations

import math

from torch import Tensor

from diffusion.samplers.euler import ancestral, slope
from diffusion.samplers.levels import level_between, lower
from diffusion.samplers.loop import Denoiser, NoiseSource, Stepper
from diffusion.schedule import Step


def euler_cfg_pp() -> Stepper:
    """An Euler step of CFG++: D + sigma_next (X - U) / sigma."""
    return euler_ancestral_cfg_pp(eta=0.0)


def euler_ancestral_cfg_pp(eta: float = 1.0, s_noise: float = 1.0) -> Stepper:
    """`euler_cfg_pp` to sigma_down, then sigma_up of fresh noise."""

    def step(denoise: Denoiser, x: Tensor, s: Step, noise: NoiseSource) -> tuple[Tensor, Tensor]:
        x0, u = denoise.with_negative(x, s.sigma)
        if s.sigma_next == 0:
            return x0, x0
        down, up = ancestral(s.sigma, s.sigma_next, eta)
        x = x0 + down * slope(x, u, s.sigma)
        return (x + noise(s.sigma, s.sigma_next) * (s_noise * up) if up > 0 else x), x0

    return step


def dpmpp_2s_ancestral_cfg_pp(eta: float = 1.0, s_noise: float = 1.0) -> Stepper:
    """`dpmpp_2s_ancestral` on U in both stages; the step ends with D - U of its start added."""

    def step(denoise: Denoiser, x: Tensor, s: Step, noise: NoiseSource) -> tuple[Tensor, Tensor]:
        x0, u = denoise.with_negative(x, s.sigma)
        down, up = ancestral(s.sigma, s.sigma_next, eta)
        end = lower(s.sigma, s.sigma_next, eta)
        if end == 0:
            y = u
        else:
            h = math.log(s.sigma / down)
            middle = level_between(s.sigma, end, 0.5)
            x_2 = middle / s.sigma * x - math.expm1(-h / 2) * u
            _, u_2 = denoise.with_negative(x_2, middle)
            y = down / s.sigma * x - math.expm1(-h) * u_2
        if up > 0:
            y = y + noise(s.sigma, s.sigma_next) * (s_noise * up)
        return y + (x0 - u), x0

    return step


def dpmpp_2m_cfg_pp() -> Stepper:
    """`dpmpp_2m` around D + e^-h (X - U), with the change of the estimate measured from U of the step before to D."""
    past: list[tuple[Tensor, float]] = []  # (U, h) of the step before

    def step(denoise: Denoiser, x: Tensor, s: Step, noise: NoiseSource) -> tuple[Tensor, Tensor]:
        x0, u = denoise.with_negative(x, s.sigma)
        if s.sigma_next == 0:
            return x0, x0
        h = math.log(s.sigma / s.sigma_next)
        x = x0 + math.exp(-h) * (x - u)
        if past:
            u_prev, h_prev = past[0]
            x = x - math.expm1(-h) / 2 * h / h_prev * (x0 - u_prev)
        past[:] = [(u, h)]
        return x, x0

    return step


def res_multistep_cfg_pp(eta: float = 0.0, s_noise: float = 1.0) -> Stepper:
    """`res_multistep` on U, from the state shifted by D - U; the first step is that of `euler_cfg_pp`."""
    past: list[tuple[Tensor, float]] = []  # (U, how far in lambda the step before went without its noise)

    def step(denoise: Denoiser, x: Tensor, s: Step, noise: NoiseSource) -> tuple[Tensor, Tensor]:
        x0, u = denoise.with_negative(x, s.sigma)
        down, up = ancestral(s.sigma, s.sigma_next, eta)
        if down == 0 or not past:
            y = x0 + down * slope(x, u, s.sigma)
        else:
            u_prev, h_prev = past[0]
            h = math.log(s.sigma / down)
            y = math.exp(-h) * (x + (x0 - u)) - math.expm1(-h) * u + (h + math.expm1(-h)) / h_prev * (u - u_prev)
        if up > 0:
            y = y + noise(s.sigma, s.sigma_next) * (s_noise * up)
        past[:] = [(u, math.log(s.sigma / down))] if down > 0 else []
        return y, x0

    return step


def res_multistep_ancestral_cfg_pp(eta: float = 1.0, s_noise: float = 1.0) -> Stepper:
    """`res_multistep_cfg_pp` with ancestral noise."""
    return res_multistep_cfg_pp(eta, s_noise)


def gradient_estimation_cfg_pp(gamma: float = 2.0) -> Stepper:
    """`euler_cfg_pp` with the change of the slope (X - U) / sigma extrapolated, as in `gradient_estimation`."""
    previous: list[Tensor] = []

    def step(denoise: Denoiser, x: Tensor, s: Step, noise: NoiseSource) -> tuple[Tensor, Tensor]:
        x0, u = denoise.with_negative(x, s.sigma)
        if s.sigma_next == 0:
            return x0, x0
        d = slope(x, u, s.sigma)
        x = x0 + d * s.sigma_next
        if previous:
            x = x + (gamma - 1) * (d - previous[0]) * (s.sigma_next - s.sigma)
        previous[:] = [d]
        return x, x0

    return step
