"""DPM-Solver on levels of its own choice: a fixed even grid in lambda = -ln sigma, or steps as long as the error allows.

Of the schedule only the ends count, and the number of evaluations for `dpm_fast`. As in k-diffusion and ComfyUI a run
to level 0 ends at the last level above 0, with the noise of that level left in (a single step so leaves all of it).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator

import torch
from torch import Tensor

from diffusion.samplers.euler import ancestral, slope
from diffusion.samplers.loop import Denoise, NoiseSource, Stepper
from diffusion.schedule import Step

# yields (X, x0, the level of X) after each step of its own, and is sent X as the loop's edits left it
Walk = Generator[tuple[Tensor, Tensor, float], Tensor, None]
# (denoise, X, the first step of the schedule, the level to end at, noise) -> the walk
Solve = Callable[[Denoise, Tensor, Step, float, NoiseSource], Walk]


def on_own_levels(solve: Solve) -> Stepper:
    """A stepper that lets a solver walk until it has passed the level that the schedule's step goes to.

    The loop so hears of the run as often as the schedule has steps, but the state lies at or beyond a step's level.
    """
    walk: Walk | None = None
    level, shown = 0.0, None

    def step(denoise: Denoise, x: Tensor, s: Step, noise: NoiseSource) -> tuple[Tensor, Tensor]:
        nonlocal walk, level, shown
        answer: Tensor | None = x
        if walk is None:
            end = s.sigmas[-1] if s.sigmas[-1] > 0 else s.sigmas[-2]
            if s.sigma == 0:
                raise ValueError(f"sigmas: this sampler cannot start at level 0, got {list(s.sigmas)}")
            if abs(math.log(s.sigma / end)) <= 1e-5:  # there is only one level above 0: it ends where it starts
                return x, denoise(x, s.sigma)
            walk, level, answer = solve(denoise, x, s, end, noise), s.sigma, None
        while s.last or (level < s.sigma_next if s.ascending else level > s.sigma_next):
            try:
                x, shown, level = next(walk) if answer is None else walk.send(answer)
            except StopIteration:
                break
            answer = x
        assert shown is not None  # the first step of a walk is longer than nothing
        return x, shown

    return step


class Stages:
    """DPM-Solver-1 to -3 from one state (Lu et al. 2022, alg. 1 and 2): steps of several orders share their evaluations."""

    def __init__(self, denoise: Denoise, x: Tensor, sigma: float) -> None:
        self.x0 = denoise(x, sigma)
        self._denoise, self._x, self._lam = denoise, x, -math.log(sigma)
        self._eps = slope(x, self.x0, sigma)
        self._at_stage: dict[float, Tensor] = {}  # eps at a share of the step, by first-order step to there

    def first(self, sigma_next: float, share: float = 1.0) -> Tensor:
        """X after `share` of the step to sigma_next, with eps held."""
        lam, h = self._to(sigma_next, share)
        return self._x - math.exp(-lam) * math.expm1(h) * self._eps

    def second(self, sigma_next: float, r: float = 0.5) -> Tensor:
        """X at sigma_next, with eps as a line through its values here and at share r of the step."""
        lam, h = self._to(sigma_next)
        return self.first(sigma_next) - math.exp(-lam) / (2 * r) * math.expm1(h) * (self._stage(sigma_next, r) - self._eps)

    def third(self, sigma_next: float, r_1: float = 1 / 3, r_2: float = 2 / 3) -> Tensor:
        """X at sigma_next from evaluations at shares r_1 and r_2 of the step."""
        lam, h = self._to(sigma_next, r_2)
        change = self._stage(sigma_next, r_1) - self._eps
        y = self.first(sigma_next, r_2) - math.exp(-lam) * (r_2 / r_1) * (math.expm1(h) / h - 1) * change
        change = slope(y, self._denoise(y, math.exp(-lam)), math.exp(-lam)) - self._eps
        lam, h = self._to(sigma_next)
        return self.first(sigma_next) - math.exp(-lam) / r_2 * (math.expm1(h) / h - 1) * change

    def _to(self, sigma_next: float, share: float = 1.0) -> tuple[float, float]:
        """(lambda after `share` of the step, how far that is)."""
        h = share * (-math.log(sigma_next) - self._lam)
        return self._lam + h, h

    def _stage(self, sigma_next: float, r: float) -> Tensor:
        if r not in self._at_stage:
            sigma = math.exp(-self._to(sigma_next, r)[0])
            y = self.first(sigma_next, r)
            self._at_stage[r] = slope(y, self._denoise(y, sigma), sigma)
        return self._at_stage[r]


def dpm_fast() -> Stepper:
    """DPM-Solver-fast: as many evaluations as the schedule has steps, in even steps of order 3, the last of order 2 or 1.

    Lu et al. 2022, sec. 3.4 and app. D.3.
    """

    def solve(denoise: Denoise, x: Tensor, s: Step, end: float, noise: NoiseSource) -> Walk:
        n, m = s.count, s.count // 3 + 1
        orders = [3] * (m - 2) + [2, 1] if n % 3 == 0 else [3] * (m - 1) + [n % 3]
        ratio = (end / s.sigma) ** (1 / m)
        for i, order in enumerate(orders):
            stages, sigma_next = Stages(denoise, x, s.sigma * ratio**i), s.sigma * ratio ** (i + 1)
            x = (stages.first, stages.second, stages.third)[order - 1](sigma_next)
            x = yield x, stages.x0, sigma_next

    return on_own_levels(solve)


class StepLength:
    """A PID controller of the step length h from the errors of the last three steps (Hairer et al. 1993, IV.2; Soderlind 2003)."""

    def __init__(self, h: float, pcoeff: float, icoeff: float, dcoeff: float, order: float, accept_safety: float) -> None:
        self.h, self._accept_safety = h, accept_safety
        self._powers = ((pcoeff + icoeff + dcoeff) / order, -(pcoeff + 2 * dcoeff) / order, dcoeff / order)
        self._inverse: list[float] = []  # 1 / error of this and the two accepted steps before, newest first

    def accepts(self, error: float) -> bool:
        """Whether a step with this error (1: as large as tolerated) is taken; h becomes the length to try next."""
        if not math.isfinite(error):
            raise ValueError(f"dpm_adaptive: a finite error is wanted, got {error}; the prediction is not finite, or rtol and atol are 0")
        inverse = 1 / (error + 1e-8)
        errors = [inverse, *(self._inverse or [inverse, inverse])]
        factor = 1 + math.atan(math.prod(e**power for e, power in zip(errors, self._powers, strict=True)) - 1)
        self.h *= factor
        accepted = factor >= self._accept_safety
        if accepted or not self._inverse:
            self._inverse = errors[:2]
        return accepted


def dpm_adaptive(
    order: int = 3,
    rtol: float = 0.05,
    atol: float = 0.0078,
    h_init: float = 0.05,
    pcoeff: float = 0.0,
    icoeff: float = 1.0,
    dcoeff: float = 0.0,
    accept_safety: float = 0.81,
    eta: float = 0.0,
    s_noise: float = 1.0,
) -> Stepper:
    """DPM-Solver-12 or -23: steps whose two orders agree to max(atol, rtol |X|) in the mean square (Lu et al. 2022, app. C)."""
    if order not in (2, 3):
        raise ValueError(f"order: 2 or 3 is wanted, got {order}")
    if not h_init > 0:
        raise ValueError(f"h_init: a length above 0 is wanted, got {h_init}")
    if not accept_safety <= 1:  # a step that was refused would be tried again unchanged, for ever
        raise ValueError(f"accept_safety: at most 1 is wanted, got {accept_safety}")

    def solve(denoise: Denoise, x: Tensor, s: Step, end: float, noise: NoiseSource) -> Walk:
        lam, lam_end = -math.log(s.sigma), -math.log(end)
        sign = 1 if lam_end > lam else -1
        length = StepLength(h_init, pcoeff, icoeff, dcoeff, 1.5 if eta else order, accept_safety)
        low_before = x
        while (lam_end - lam) * sign > 1e-5:
            lam_next = lam + sign * min(length.h, abs(lam_end - lam))
            sigma, sigma_next = math.exp(-lam), math.exp(-lam_next)
            down = max(ancestral(sigma, sigma_next, eta)[0], end) if eta else sigma_next
            stages = Stages(denoise, x, sigma)
            low, high = (stages.first(down), stages.second(down)) if order == 2 else (stages.second(down, r=1 / 3), stages.third(down))
            tolerated = (rtol * torch.maximum(low.abs(), low_before.abs())).clamp(min=atol)
            if length.accepts(((low - high) / tolerated).square().mean().sqrt().item()):
                up = math.sqrt(max(sigma_next**2 - down**2, 0))
                x = high + noise(sigma, sigma_next) * (s_noise * up) if up > 0 else high
                low_before, lam = low, lam_next
                x = yield x, stages.x0, sigma_next

    return on_own_levels(solve)
