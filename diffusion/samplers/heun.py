"""Second-order solvers that ask the network again inside a step."""

from __future__ import annotations

import math

from torch import Tensor

from diffusion.samplers.euler import ancestral, slope
from diffusion.samplers.levels import level_between, level_mixed, lower
from diffusion.samplers.loop import Denoise, NoiseSource, Stepper
from diffusion.schedule import Step


def heun() -> Stepper:
    """Heun's method, Euler in a step to 0 (Karras et al. 2022, alg. 1)."""

    def step(denoise: Denoise, x: Tensor, s: Step, noise: NoiseSource) -> tuple[Tensor, Tensor]:
        x0 = denoise(x, s.sigma)
        d, dt = slope(x, x0, s.sigma), s.sigma_next - s.sigma
        x_2 = x + d * dt
        if s.sigma_next == 0:
            return x_2, x0
        d_2 = slope(x_2, denoise(x_2, s.sigma_next), s.sigma_next)
        return x + (d + d_2) / 2 * dt, x0

    return step


def heunpp2() -> Stepper:
    """Heun++: slopes at up to three consecutive levels, those ahead weighted by their sigma / (stages * first sigma).

    Two stages in the last but one step, Euler in the last one. This is the rule of ComfyUI's sampler of that name,
    which no paper describes; with the slopes ahead weighted so little it is of first order, with a small error.
    """

    def step(denoise: Denoise, x: Tensor, s: Step, noise: NoiseSource) -> tuple[Tensor, Tensor]:
        x0 = denoise(x, s.sigma)
        d, dt = slope(x, x0, s.sigma), s.sigma_next - s.sigma
        ahead = s.sigmas[s.index + 1 : min(s.index + 3, s.count)]  # the next two levels, the last level left out
        slopes, y, sigma = [d], x, s.sigma
        for level in ahead:
            y, sigma = y + slopes[-1] * (level - sigma), level
            slopes.append(slope(y, denoise(y, level), level))
        weights = [level / (len(slopes) * s.sigmas[0]) for level in ahead]
        mean = (1 - sum(weights)) * d
        for w, d_i in zip(weights, slopes[1:], strict=True):
            mean = mean + w * d_i
        return x + mean * dt, x0

    return step


def dpm_2() -> Stepper:
    """The midpoint method with the geometric mean of the levels as midpoint (DPM-Solver-2, Lu et al. 2022, alg. 1)."""
    return dpm_2_ancestral(eta=0.0)


def dpm_2_ancestral(eta: float = 1.0, s_noise: float = 1.0) -> Stepper:
    """`dpm_2` to sigma_down, then sigma_up of fresh noise."""

    def step(denoise: Denoise, x: Tensor, s: Step, noise: NoiseSource) -> tuple[Tensor, Tensor]:
        x0 = denoise(x, s.sigma)
        down, up = ancestral(s.sigma, s.sigma_next, eta)
        d = slope(x, x0, s.sigma)
        end = lower(s.sigma, s.sigma_next, eta)
        if end == 0:
            return x - d * s.sigma, x0
        middle = level_mixed(s.sigma, end, 0.5)
        x_2 = x + d * (middle - s.sigma)
        x = x + slope(x_2, denoise(x_2, middle), middle) * (down - s.sigma)
        return (x + noise(s.sigma, s.sigma_next) * (s_noise * up) if up > 0 else x), x0

    return step


def dpmpp_2s_ancestral(eta: float = 1.0, s_noise: float = 1.0) -> Stepper:
    """DPM-Solver++(2S) to sigma_down (Lu et al. 2022b, alg. 1 with r = 1/2), then sigma_up of fresh noise."""

    def step(denoise: Denoise, x: Tensor, s: Step, noise: NoiseSource) -> tuple[Tensor, Tensor]:
        x0 = denoise(x, s.sigma)
        down, up = ancestral(s.sigma, s.sigma_next, eta)
        end = lower(s.sigma, s.sigma_next, eta)
        if end == 0:
            x = x0
        else:
            h = math.log(s.sigma / down)
            middle = level_between(s.sigma, end, 0.5)
            x_2 = middle / s.sigma * x - math.expm1(-h / 2) * x0
            x = down / s.sigma * x - math.expm1(-h) * denoise(x_2, middle)
        return (x + noise(s.sigma, s.sigma_next) * (s_noise * up) if up > 0 else x), x0

    return step
