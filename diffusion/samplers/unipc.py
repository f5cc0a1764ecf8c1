"""UniPC: a multistep predictor, and a corrector of one order more at no extra evaluation (Zhao et al. 2023)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from diffusion.samplers.loop import Denoise, NoiseSource, Stepper
from diffusion.schedule import Step

FLOOR = 0.001  # a last level of 0 has lambda = inf; the run ends here instead


def vp_log_snr(sigma: float) -> Tensor:
    """lambda = ln alpha - ln sqrt(1 - alpha^2), which is -ln sigma up to its float32 rounding: at the floor it is 0.02 more."""
    level = torch.tensor(sigma, dtype=torch.float32)
    log_alpha = 0.5 * torch.log(1 / (level * level + 1))
    return log_alpha - 0.5 * torch.log(1 - torch.exp(2 * log_alpha))


def weights(r: Sequence[float], h: float, scale: float, dtype: torch.dtype = torch.float32) -> list[float]:
    """The weights a of X_next = e^-h X + (1 - e^-h) D_0 - B sum a_i (D_i - D_0) / r_i, where B is `scale`.

    r_i are the places of the D_i in units of the step h (Zhao et al. 2023, eq. 5 and theorem 3.1: R a = phi / B). A
    single weight is 1/2 whatever B, as published: that keeps the order. For short steps the phi are small differences, and a
    seed gives the picture that is known only in float32.
    """
    if len(r) < 2:
        return [0.5] * len(r)
    back, factorial = torch.tensor(-h, dtype=dtype), 1
    phi = torch.expm1(back) / back - 1
    right = []
    for n in range(1, len(r) + 1):
        right.append(phi * factorial / scale)
        factorial *= n + 1
        phi = phi / back - 1 / factorial
    left = torch.vander(torch.tensor(r, dtype=dtype), increasing=True).T
    a: list[float] = torch.linalg.solve(left, torch.stack(right)).tolist()
    return a


def uni_pc(variant: str = "bh1") -> Stepper:
    """UniPC of order min(3, n - 1), less in the first and last steps (Zhao et al. 2023, alg. 1-2).

    "bh1" takes B(h) = h, "bh2" B(h) = e^h - 1. Each step asks the network once, at the level it arrives at (the first
    step also where it starts, the last not at all).
    """
    if variant not in ("bh1", "bh2"):
        raise ValueError(f"variant: bh1 or bh2 is wanted, got {variant!r}")
    past: list[tuple[float, Tensor]] = []  # (lambda, D), newest first

    def step(denoise: Denoise, x: Tensor, s: Step, noise: NoiseSource) -> tuple[Tensor, Tensor]:
        lam, lam_next = (vp_log_snr(level).item() for level in (s.sigma, max(s.sigma_next, FLOOR)))
        h = lam_next - lam
        if not past:
            past.append((lam, denoise(x, s.sigma)))
        x0 = past[0][1]
        most = max(min(3, s.count - 1), 1)
        order = min(most, s.index + 1, s.count - s.index)
        r = [(lam_i - lam) / h for lam_i, _ in past[1:order]]
        differences = [(x0_i - x0) / r_i for (_, x0_i), r_i in zip(past[1:order], r, strict=True)]

        base = math.exp(-h) * x - math.expm1(-h) * x0
        scale = -h if variant == "bh1" else math.expm1(-h)
        predicted = base
        for a_i, d_i in zip(weights(r, h, scale), differences, strict=True):
            predicted = predicted - scale * a_i * d_i
        if s.last:
            return predicted, x0

        x0_next = denoise(predicted, s.sigma_next)
        corrected = base
        for a_i, d_i in zip(weights([*r, 1.0], h, scale), [*differences, x0_next - x0], strict=True):
            corrected = corrected - scale * a_i * d_i
        past.insert(0, (lam_next, x0_next))
        del past[3:]
        return corrected, x0

    return step
