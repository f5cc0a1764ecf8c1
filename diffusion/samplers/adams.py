"""Linear multistep solvers on the slope dX/dsigma: Adams-Bashforth with exact, fixed, or time-warped coefficients."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from diffusion.samplers.euler import slope
from diffusion.samplers.loop import Denoise, NoiseSource, Stepper
from diffusion.schedule import Step

POINTS = 10_000  # of the sums of DEIS, the authors' number

# the linear-beta VP process with sigma(0.001) = 0.002 and sigma(1) = 80 (Karras et al. 2022, table 1, VP column, and appendix C.1)
_LOW, _HIGH = (torch.log(torch.tensor(level) ** 2 + 1) for level in (0.002, 80.0))
BETA_D = 2 * (_LOW / 1e-3 - _HIGH) / (1e-3 - 1)
BETA_MIN = _HIGH - BETA_D / 2


def vp_time(sigma: Tensor) -> Tensor:
    """The time t of that process at a level."""
    return ((BETA_MIN**2 + 2 * BETA_D * (sigma**2 + 1).log()).sqrt() - BETA_MIN) / BETA_D


@lru_cache(maxsize=8)
def gauss(n: int) -> tuple[Sequence[float], Sequence[float]]:
    """Nodes and weights of Gauss-Legendre quadrature on -1..1."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return nodes.tolist(), weights.tolist()


def coefficients(past: Sequence[float], sigma_next: float) -> list[float]:
    """The integrals, from past[0] to sigma_next, of the Lagrange polynomials through the levels `past`, newest first.

    By Gauss-Legendre quadrature, which is exact for them.
    """
    sigma = past[0]
    nodes, weights = gauss(len(past))
    out = [0.0] * len(past)
    for node, weight in zip(nodes, weights, strict=True):
        at = sigma + (sigma_next - sigma) * (node + 1) / 2
        for j, sigma_j in enumerate(past):
            basis = math.prod((at - sigma_k) / (sigma_j - sigma_k) for k, sigma_k in enumerate(past) if k != j)
            out[j] += weight * (sigma_next - sigma) / 2 * basis
    return out


def vp_coefficients(past: Sequence[float], sigma_next: float) -> list[float]:
    """The same integrals of the Lagrange polynomials in VP time.

    As float32 sums over times with both ends among them, which are about 1e-4 off: those of the authors' program, so that a seed gives the
    picture that is known.
    """
    if len(past) == 1:
        return [sigma_next - past[0]]
    t_next, *known = vp_time(torch.tensor([sigma_next, *past], dtype=torch.float32))
    t = torch.linspace(known[0].item(), t_next.item(), POINTS)
    alpha_bar = torch.exp(-0.5 * t**2 * BETA_D - t * BETA_MIN)
    growth = 0.5 * (t * BETA_D + BETA_MIN) / torch.sqrt(alpha_bar * (1 - alpha_bar))  # d sigma / dt
    out = []
    for j, t_j in enumerate(known):
        basis = torch.ones_like(t)
        for k, t_k in enumerate(known):
            basis = basis * ((t - t_k) / (t_j - t_k)) if k != j else basis
        out.append(((growth * basis).sum() * ((t_next - known[0]) / POINTS)).item())
    return out


def _multistep(order: int, rule: Callable[[Sequence[float], float], Sequence[float]]) -> Stepper:
    """A stepper that adds up the last `order` slopes with the rule's coefficients; a step to 0 returns x0."""
    slopes: list[Tensor] = []  # newest first

    def step(denoise: Denoise, x: Tensor, s: Step, noise: NoiseSource) -> tuple[Tensor, Tensor]:
        x0 = denoise(x, s.sigma)
        if s.sigma_next == 0:
            return x0, x0
        slopes.insert(0, slope(x, x0, s.sigma))
        del slopes[order:]
        past = [s.sigmas[s.index - j] for j in range(len(slopes))]
        for c, d in zip(rule(past, s.sigma_next), slopes, strict=True):
            x = x + c * d
        return x, x0

    return step


def lms(order: int = 4) -> Stepper:
    """Adams-Bashforth on the levels as they lie, with exactly integrated polynomials (Hairer et al. 1993, III.5)."""
    if not 1 <= order <= 100:
        raise ValueError(f"order: 1..100 is wanted, got {order}")
    return _multistep(order, coefficients)


def deis(order: int = 3) -> Stepper:
    """tAB-DEIS: the slope is a polynomial in VP time, not in sigma (Zhang and Chen 2023, eq. 15)."""
    if not 1 <= order <= 4:
        raise ValueError(f"order: 1..4 is wanted, got {order}")
    return _multistep(order, vp_coefficients)


# Adams-Bashforth for steps of equal length (Hairer et al. 1993, III.1, table 1.1), newest first
_EQUAL_STEPS = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def ipndm(order: int = 4) -> Stepper:
    """Improved PNDM: the equal-step coefficients, whatever the steps (Zhang and Chen 2023, sec. 4)."""
    if not 1 <= order <= 4:
        raise ValueError(f"order: 1..4 is wanted, got {order}")
    return _multistep(order, lambda past, sigma_next: [c * (sigma_next - past[0]) for c in _EQUAL_STEPS[len(past) - 1]])


def unequal_steps(past: Sequence[float], sigma_next: float) -> list[float]:
    """The coefficients of `ipndm_v` for 1 to 4 levels: Euler, corrected by weighted differences of the slopes.

    They are those of the authors' program, so that a seed gives the picture that is known: for two levels those of
    Adams-Bashforth, for three levels too where steps are equal, for four levels close to them.
    """
    levels = [sigma_next, *past]
    h = [newer - older for newer, older in itertools.pairwise(levels)]  # this step, the one before, ...
    out = [1.0] + [0.0] * (len(past) - 1)
    if len(past) > 1:
        out[0] += h[0] / h[1] / 2
        out[1] -= h[0] / h[1] / 2
    if len(past) > 2:
        first = h[1] / h[2]
        lead = h[0] / (3 * (h[0] + h[1]))
        reach = h[0] * (h[0] + h[1]) / (h[1] * (h[1] + h[2]))
        weight = (1 - lead * reach) / 2
        for i, c in enumerate((1, -(1 + first), first)):
            out[i] += weight * c
    if len(past) > 3:
        second = h[1] * (h[1] + h[2]) / (h[2] * (h[2] + h[3]))
        reach = h[0] * (h[0] + h[1]) * sum(h[:3]) / (h[1] * (h[1] + h[2]) * sum(h[1:4]))
        weight = ((1 - lead) / 2 + (1 - h[0] / (2 * (h[0] + h[1]))) * h[0] / (6 * sum(h[:3]))) * reach
        for i, c in enumerate((1, -(1 + first + second), first + second * (1 + h[2] / h[3]), -second * first)):
            out[i] += weight * c
    return [c * h[0] for c in out]


def ipndm_v(order: int = 4) -> Stepper:
    """Improved PNDM with coefficients that follow the lengths of the steps (Zhang and Chen 2023, sec. 4; `unequal_steps`)."""
    if not 1 <= order <= 4:
        raise ValueError(f"order: 1..4 is wanted, got {order}")
    return _multistep(order, unequal_steps)


def gradient_estimation(gamma: float = 2.0) -> Stepper:
    """Euler with the change of slope extrapolated: d + (gamma - 1)(d - d_prev) (Permenter and Yuan 2024, alg. 2)."""
    previous: list[Tensor] = []

    def step(denoise: Denoise, x: Tensor, s: Step, noise: NoiseSource) -> tuple[Tensor, Tensor]:
        x0 = denoise(x, s.sigma)
        if s.sigma_next == 0:
            return x0, x0
        d = slope(x, x0, s.sigma)
        d_bar = d + (gamma - 1) * (d - previous[0]) if previous else d
        previous[:] = [d]
        return x + d_bar * (s.sigma_next - s.sigma), x0

    return step
