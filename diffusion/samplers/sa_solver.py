"""SA-Solver: Adams methods of variable order for the reverse SDE, a predictor and a corrector (Xue et al. 2023)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from diffusion.samplers.levels import log_snr
from diffusion.samplers.loop import Denoise, NoiseSource, Stepper
from diffusion.schedule import Step


def weights(past: Sequence[float], lam: float, lam_next: float, tau: float, dtype: torch.dtype = torch.float32) -> list[float]:
    """b_i = the integral over lam .. lam_next of (1 + tau^2) e^(-(1 + tau^2)(lam_next - t)) l_i(t) dt (eq. 15 and 18).

    l_i are the Lagrange polynomials through `past`, the lambda of each D that is known. The moments of 1, t, t^2, ... come by parts, each
    from the one below, and the b_i that have them from a linear system. Where levels lie close it is ill-conditioned: a seed gives the
    picture that is known only in float32, and in ComfyUI's order of operations.
    """
    rate, p = 1 + tau**2, torch.arange(len(past), dtype=dtype)
    start, end = (torch.tensor(t, dtype=dtype) for t in (lam, lam_next))
    ends = end**p - start**p * (-rate * (end - start)).exp()
    below, log_factorial = p[:, None] - p, (p + 1).lgamma()
    chain = log_factorial[:, None] - log_factorial - below * math.log(rate)  # of the factors -q / rate for q = p, p - 1, ...
    moments = (chain.exp() * torch.where(below % 2 == 0, 1.0, -1.0)).tril() @ ends
    oldest_first = torch.tensor(past[::-1], dtype=dtype)
    b: list[float] = torch.linalg.solve(torch.vander(oldest_first, len(past), increasing=True).T, moments).tolist()
    return b[::-1]


def simple_weights(past: Sequence[float], lam: float, lam_next: float, tau: float) -> list[float]:
    """The two weights of order 2 to leading order in h (app. D), newest D first; `past` may hold lam_next (the corrector)."""
    rate, h = 1 + tau**2, lam_next - lam
    whole = -math.expm1(-rate * h)
    if past[0] == lam_next:
        return [rate * h / 2, whole - rate * h / 2]
    older = rate * h**2 / 2 / (past[1] - lam)
    return [whole - older, older]


def sa_solver(
    eta: float = 1.0,
    sde_start: float | None = None,
    sde_end: float | None = None,
    s_noise: float = 1.0,
    predictor_order: int = 3,
    corrector_order: int = 4,
    use_pece: bool = False,
    simple_order_2: bool = False,
) -> Stepper:
    """SA-Solver in VE form (alg. 1), with tau = eta on the way to levels from `sde_start` down to `sde_end`, else 0.

    The default range is from 20 % to 80 % of the way through the model's table. The network is asked once a step, at the predicted
    state; `use_pece` asks again at the corrected one. Where the run ends at level 0 the orders fall towards the end.
    """
    if predictor_order < 1 or corrector_order < 0:
        raise ValueError(f"predictor_order, corrector_order: 1 and 0 at least are wanted, got {predictor_order} and {corrector_order}")
    known: list[tuple[float, Tensor]] = []  # (lambda, D), newest first
    start: list[Tensor] = []  # the corrected state that the step before started from
    tau = 0.0
    drawn: Tensor | None = None  # the noise of the step before: the corrector takes that step again

    def advance(x: Tensor, order: int, sigma: float, sigma_next: float) -> Tensor:
        """X at sigma_next from X at sigma and the newest `order` estimates, with the noise drawn for that step."""
        past = [lam for lam, _ in known[:order]]
        lam, lam_next = log_snr(sigma).item(), log_snr(sigma_next).item()
        b = (simple_weights if simple_order_2 and order == 2 else weights)(past, lam, lam_next, tau)
        x = math.exp(-(1 + tau**2) * (lam_next - lam)) * x
        for b_i, (_, x0_i) in zip(b, known, strict=False):
            x = x + b_i * x0_i
        return x if drawn is None else x + drawn

    def step(denoise: Denoise, x: Tensor, s: Step, noise: NoiseSource) -> tuple[Tensor, Tensor]:
        nonlocal tau, drawn
        x0 = shown = denoise(x, s.sigma)
        known.insert(0, (log_snr(s.sigma).item(), x0))
        del known[max(predictor_order, corrector_order) :]
        lowered = s.count - s.index if s.sigmas[-1] == 0 else s.count  # towards level 0 the steps left bound the order

        order = min(corrector_order, len(known), lowered)
        if start and order and (use_pece or s.sigma_next > 0):
            x = advance(start[0], order, s.sigmas[s.index - 1], s.sigma)
            if use_pece:
                x0 = denoise(x, s.sigma)
                known[0] = (known[0][0], x0)
        if s.sigma_next == 0:
            return x0, shown

        low = s.table.percent_to_sigma(0.8) if sde_end is None else sde_end
        high = s.table.percent_to_sigma(0.2) if sde_start is None else sde_start
        tau = eta if low <= s.sigma_next <= high else 0.0
        if tau > 0 and s.ascending:
            raise ValueError(f"sigmas: a sampler that adds noise only goes down, got {s.sigma} -> {s.sigma_next}")
        damping = -math.expm1(-2 * tau**2 * math.log(s.sigma / s.sigma_next))
        drawn = noise(s.sigma, s.sigma_next) * (s.sigma_next * math.sqrt(damping) * s_noise) if tau > 0 and s_noise > 0 else None
        start[:] = [x]
        order = min(predictor_order, len(known), lowered - 1 if s.sigmas[-1] == 0 else lowered)
        return advance(x, order, s.sigma, s.sigma_next), shown

    return step


def sa_solver_pece(
    eta: float = 1.0,
    sde_start: float | None = None,
    sde_end: float | None = None,
    s_noise: float = 1.0,
    predictor_order: int = 3,
    corrector_order: int = 4,
    simple_order_2: bool = False,
) -> Stepper:
    """`sa_solver` that predicts, evaluates, corrects, and evaluates again."""
    return sa_solver(eta, sde_start, sde_end, s_noise, predictor_order, corrector_order, True, simple_order_2)
