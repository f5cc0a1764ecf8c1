"""Levels that a solver visits between those of its schedule, to the last bit of ComfyUI's float32 operations.

The last bit counts: the network is told the nearest timestep, so that rounding decides where a level half-way between two of them belongs
(the levels of "normal" for 7 steps lie so, and ancestral stages fall on them), and a Brownian path is rough: at a level that differs in the
last bit its noise differs in the third digit.
"""

from __future__ import annotations

import torch
from torch import Tensor


def log_snr(sigma: float) -> Tensor:
    """lambda = -ln sigma, a float32 number."""
    return -torch.tensor(sigma, dtype=torch.float32).log()


def lower(sigma: float, sigma_next: float, eta: float) -> float:
    """`ancestral`'s sigma_down, as a level to place stages by."""
    if eta == 0:
        return sigma_next
    high, low = (torch.tensor(level, dtype=torch.float32) for level in (sigma, sigma_next))
    up = torch.minimum(low, eta * (low**2 * (high**2 - low**2) / high**2) ** 0.5)
    return ((low**2 - up**2) ** 0.5).item()


def level_between(sigma: float, sigma_next: float, r: float) -> float:
    """The level at share r of a step in lambda: lambda + r h, as the solvers of DPM-Solver++ place their stage."""
    lam, lam_next = log_snr(sigma), log_snr(sigma_next)
    return (-(lam + r * (lam_next - lam))).exp().item()


def level_mixed(sigma: float, sigma_next: float, r: float) -> float:
    """The same level from the nearer end, which r = 1 meets exactly: as DPM-Solver-2 and SEEDS place theirs."""
    return (-torch.lerp(log_snr(sigma), log_snr(sigma_next), r)).exp().item()
