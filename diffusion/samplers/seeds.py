"""SEEDS: Runge-Kutta exponential integrators of the reverse SDE, with D as data (Gonzalez et al. 2023, alg. 1-3).

Over a step of length h in lambda = -ln sigma the linear part is exact with k = h (1 + eta); stages at shares r of the
step share one path of noise. In the terms of `Segments` the noise at a share r has variance sigma_r^2 (1 - e^(-2 r h eta)).
"""

from __future__ import annotations

import math

from torch import Tensor

from diffusion.samplers.levels import level_mixed
from diffusion.samplers.loop import Denoise, NoiseSource, Stepper
from diffusion.schedule import Step


class Segments:
    """One step in VE form: the states at shares of it, driven by noise that is drawn segment by segment."""

    def __init__(self, s: Step, eta: float, s_noise: float, noise: NoiseSource) -> None:
        self.h = math.log(s.sigma / s.sigma_next)
        self.k = self.h * (1 + eta)
        self._ends, self._eta, self._s_noise, self._noise = (s.sigma, s.sigma_next), eta, s_noise, noise
        self._r = 0.0
        self._z: Tensor | None = None  # the path's noise at share r, in units of the level there

    def level(self, r: float) -> float:
        """The noise level at share r of the step."""
        return level_mixed(*self._ends, r)

    def damped(self, x: Tensor, r: float) -> Tensor:
        """What is left at share r of the state that the step started from."""
        return math.exp(-r * self.k) * x

    def noise(self, r: float) -> Tensor | float:
        """The path's noise at share r; shares are asked for in rising order."""
        if self._eta == 0 or self._s_noise == 0:
            return 0.0
        ahead = (r - self._r) * self.h * self._eta
        fresh = math.sqrt(-math.expm1(-2 * ahead)) * self._noise(self.level(self._r), self.level(r))
        self._z = fresh if self._z is None else math.exp(-ahead) * self._z + fresh
        self._r = r
        return self.level(r) * self._s_noise * self._z


def phi_1(k: float) -> float:
    """The weight of a D that is held over a step of length k: the integral of e^-(k - t) over 0..k."""
    return -math.expm1(-k)


def phi_2(k: float) -> float:
    """The weight of the change of D over a step of length k, when D is a line: that integral with t / k inside."""
    return 1 + math.expm1(-k) / k


def seeds_2(eta: float = 1.0, s_noise: float = 1.0, r: float = 0.5, solver_type: str = "phi_1") -> Stepper:
    """SEEDS-2: one stage at share r. "phi_1" holds a mean of both D's, "phi_2" integrates the line through them."""
    if solver_type not in ("phi_1", "phi_2"):
        raise ValueError(f"solver_type: phi_1 or phi_2 is wanted, got {solver_type!r}")
    if not 0 < r <= 1:
        raise ValueError(f"r: a share of the step, 0 < r <= 1, is wanted, got {r}")

    def step(denoise: Denoise, x: Tensor, s: Step, noise: NoiseSource) -> tuple[Tensor, Tensor]:
        x0 = denoise(x, s.sigma)
        if s.sigma_next == 0:
            return x0, x0
        path = Segments(s, eta, s_noise, noise)
        x_2 = path.damped(x, r) + phi_1(r * path.k) * x0 + path.noise(r)
        change = (denoise(x_2, path.level(r)) - x0) / r
        weight = phi_1(path.k) / 2 if solver_type == "phi_1" else phi_2(path.k)
        return path.damped(x, 1) + phi_1(path.k) * x0 + weight * change + path.noise(1), x0

    return step


def seeds_3(eta: float = 1.0, s_noise: float = 1.0, r_1: float = 1 / 3, r_2: float = 2 / 3) -> Stepper:
    """SEEDS-3: two stages, at shares r_1 and r_2 of the step."""
    if not 0 < r_1 < r_2 <= 1:
        raise ValueError(f"r_1, r_2: shares of the step, 0 < r_1 < r_2 <= 1, are wanted, got {r_1} and {r_2}")

    def step(denoise: Denoise, x: Tensor, s: Step, noise: NoiseSource) -> tuple[Tensor, Tensor]:
        x0 = denoise(x, s.sigma)
        if s.sigma_next == 0:
            return x0, x0
        path = Segments(s, eta, s_noise, noise)
        x_2 = path.damped(x, r_1) + phi_1(r_1 * path.k) * x0 + path.noise(r_1)
        change = (denoise(x_2, path.level(r_1)) - x0) / r_1
        x_3 = path.damped(x, r_2) + phi_1(r_2 * path.k) * x0 + r_2 * phi_2(r_2 * path.k) * change + path.noise(r_2)
        change = (denoise(x_3, path.level(r_2)) - x0) / r_2
        return path.damped(x, 1) + phi_1(path.k) * x0 + phi_2(path.k) * change + path.noise(1), x0

    return step


def exp_heun_2_x0(solver_type: str = "phi_2") -> Stepper:
    """Exponential Heun: D as a line in lambda over the step (Hochbruck and Ostermann 2010, eq. 2.39, c2 = 1)."""
    return seeds_2(eta=0.0, r=1.0, solver_type=solver_type)


def exp_heun_2_x0_sde(eta: float = 1.0, s_noise: float = 1.0, solver_type: str = "phi_2") -> Stepper:
    """`exp_heun_2_x0` of the reverse SDE: SEEDS-2 with its stage at the end of the step."""
    return seeds_2(eta, s_noise, 1.0, solver_type)
