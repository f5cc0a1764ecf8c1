"""Where on the noise axis the steps lie: the named spacings, and the rules that cut a list of levels.

Every list is a float32 tensor, noisiest first, and ends with 0 unless said otherwise. `n` is the number of steps.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from scipy.special import betaincinv
from torch import Tensor

from diffusion.schedule import Table

Spacing = Callable[[Table, int], Tensor]


def _to_zero(sigmas: Tensor) -> Tensor:
    return torch.cat([sigmas.float(), torch.zeros(1)])


# -- by index of the training table --


def simple(table: Table, n: int) -> Tensor:
    """Every (N/n)-th entry of the table, counted from the noisy end."""
    return _to_zero(torch.stack([table.sigmas[-(1 + int(i * len(table) / n))] for i in range(n)]))


def normal(table: Table, n: int) -> Tensor:
    """Indices evenly spaced, both ends of the table included."""
    return _to_zero(table.sigmas_at(torch.linspace(len(table) - 1, 0, n)))


def sgm_uniform(table: Table, n: int) -> Tensor:
    """Indices evenly spaced with the clean end left out."""
    return _to_zero(table.sigmas_at(torch.linspace(len(table) - 1, 0, n + 1)[:-1]))


def ddim_uniform(table: Table, n: int) -> Tensor:
    """Every (N//n)-th entry counted from entry 1 at the clean end (Song et al. 2021, sec. 4.2).

    Where n does not divide N the list has more than n steps, and the first level lies below sigma_max.
    """
    return _to_zero(table.sigmas[1 :: max(len(table) // n, 1)].flip(0))


def beta(table: Table, n: int, alpha: float = 0.6, beta: float = 0.6) -> Tensor:
    """Indices at quantiles of a Beta distribution, dense at both ends (Lee et al. 2024); repeats are dropped."""
    quantiles = [1 - i / n for i in range(n)]
    indices = [round(betaincinv(alpha, beta, p) * (len(table) - 1)) for p in quantiles]
    kept = [t for i, t in enumerate(indices) if i == 0 or t != indices[i - 1]]
    return _to_zero(table.sigmas[torch.tensor(kept)])


def sd_turbo(table: Table, n: int, denoise: float = 1.0) -> Tensor:
    """The first n (at most 10) of the ten indices a distilled turbo model knows, from where denoise asks."""
    indices = torch.arange(10, 0, -1) * (len(table) // 10) - 1
    start = 10 - int(10 * denoise)
    return _to_zero(table.sigmas_at(indices[start : start + n]))


# -- by level --


def karras(n: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    """Even in sigma^(1/rho) (Karras et al. 2022, eq. 5)."""
    u = torch.linspace(0, 1, n)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return _to_zero((high + u * (low - high)) ** rho)


def exponential(n: int, sigma_min: float, sigma_max: float) -> Tensor:
    """Even in log sigma."""
    return _to_zero(torch.linspace(math.log(sigma_max), math.log(sigma_min), n).exp())


def polyexponential(n: int, sigma_min: float, sigma_max: float, rho: float = 1.0) -> Tensor:
    """A power of an even ramp in log sigma; rho = 1 is `exponential`."""
    u = torch.linspace(1, 0, n) ** rho
    return _to_zero((u * (math.log(sigma_max) - math.log(sigma_min)) + math.log(sigma_min)).exp())


def laplace(n: int, sigma_min: float, sigma_max: float, mu: float = 0.0, beta: float = 0.5) -> Tensor:
    """Quantiles of a Laplace distribution of log sigma (Hang and Gu 2024), clamped; n levels and no 0 at the end."""
    u = torch.linspace(0, 1, n)
    log_sigma = mu - beta * torch.sign(0.5 - u) * torch.log(1 - 2 * (0.5 - u).abs() + 1e-5)
    return log_sigma.exp().clamp(sigma_min, sigma_max)


def vp(n: int, beta_d: float = 19.9, beta_min: float = 0.1, eps_s: float = 0.001) -> Tensor:
    """Even in the time of the continuous VP process, from 1 to eps_s (Song et al. 2021b, eq. 33)."""
    t = torch.linspace(1, eps_s, n)
    return _to_zero(torch.expm1(beta_d * t**2 / 2 + beta_min * t).sqrt())


def kl_optimal(n: int, sigma_min: float, sigma_max: float) -> Tensor:
    """Even in arctan sigma (Sabour et al. 2024, sec. 3.1: the KL-optimal schedule of Gaussian data)."""
    u = torch.arange(n) / max(n - 1, 1)
    return _to_zero(torch.tan(u * math.atan(sigma_min) + (1 - u) * math.atan(sigma_max)))


def linear_quadratic(n: int, sigma_max: float, threshold: float = 0.025) -> Tensor:
    """n//2 even steps to (1 - threshold) sigma_max, then a parabola to 0 that joins smoothly (Polyak et al. 2024)."""
    if n == 1:
        return torch.tensor([sigma_max, 0.0])
    flat = n // 2
    # f(i) = curve * i^2 + slope * i + curve * flat^2 from i = flat on, where it touches the line, to f(n) = 1
    rest, bend = n - flat, flat - threshold * n
    curve, slope = bend / (flat * rest**2), threshold / flat - 2 * bend / rest**2
    line = [i * threshold / flat for i in range(flat)]
    parabola = [curve * i**2 + slope * i + curve * flat**2 for i in range(flat, n)]
    # the product in float32, as ComfyUI takes it: levels this close are told apart by their last bits
    return torch.tensor([1 - f for f in [*line, *parabola, 1.0]]) * torch.tensor(sigma_max)


# -- by name --

# in the order of ComfyUI's combo box, which saved graphs and the editor show
SPACINGS: Mapping[str, Spacing] = MappingProxyType(
    {
        "simple": simple,
        "sgm_uniform": sgm_uniform,
        "karras": lambda table, n: karras(n, table.sigma_min, table.sigma_max),
        "exponential": lambda table, n: exponential(n, table.sigma_min, table.sigma_max),
        "ddim_uniform": ddim_uniform,
        "beta": beta,
        "normal": normal,
        "linear_quadratic": lambda table, n: linear_quadratic(n, table.sigma_max),
        "kl_optimal": lambda table, n: kl_optimal(n, table.sigma_min, table.sigma_max),
    }
)
SCHEDULERS: tuple[str, ...] = tuple(SPACINGS)

# these solvers are run on a list of one more step with its last non-zero level taken out
DROPS_PENULTIMATE = frozenset({"dpm_2", "dpm_2_ancestral", "uni_pc", "uni_pc_bh2"})


def sigmas_for(table: Table, name: str, steps: int, denoise: float = 1.0, sampler: str | None = None) -> Tensor:
    """The levels of `steps` steps in the named spacing; with denoise < 1 the clean end of a longer list.

    denoise <= 0 gives an empty list. Given a sampler's name, its rule about the penultimate level is applied
    (KSampler does, BasicScheduler does not). Raises ValueError for an unknown name or steps < 1.
    """
    if name not in SPACINGS:
        raise ValueError(f"scheduler: one of {', '.join(SCHEDULERS)} is wanted, got {name!r}")
    if steps < 1:
        raise ValueError(f"steps: at least 1 is wanted, got {steps}")
    if denoise <= 0:
        return torch.zeros(0)
    total = steps if denoise > 0.9999 else int(steps / denoise)
    if sampler in DROPS_PENULTIMATE:
        sigmas = SPACINGS[name](table, total + 1)
        sigmas = torch.cat([sigmas[:-2], sigmas[-1:]])
    else:
        sigmas = SPACINGS[name](table, total)
    return sigmas if denoise > 0.9999 else sigmas[-(steps + 1) :]


def advanced_range(sigmas: Tensor, start: int, end: int, leftover_noise: bool) -> Tensor:
    """The levels between two step numbers, as KSamplerAdvanced cuts them; empty where nothing is left to do.

    Without leftover noise a list that was cut at its end still goes to 0 in its last step.
    """
    if end < len(sigmas) - 1:
        sigmas = sigmas[: end + 1].clone()
        if not leftover_noise:
            sigmas[-1] = 0
    return sigmas[start:] if start < len(sigmas) - 1 else sigmas[:0]


def split(sigmas: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """(high, low): the levels before and after a step number; both hold the level between them."""
    return sigmas[: step + 1], sigmas[step:]


def split_denoise(sigmas: Tensor, denoise: float) -> tuple[Tensor, Tensor]:
    """(high, low): low runs the last round(steps * denoise) steps; if these are none, high is empty, as in ComfyUI."""
    steps = max(len(sigmas) - 1, 0)
    low = round(steps * denoise)
    return (split(sigmas, steps - low)[0] if low else sigmas[:0]), sigmas[-(low + 1) :]


def flip(sigmas: Tensor) -> Tensor:
    """The levels in rising order; a leading 0 becomes 1e-4, since solvers divide by the level they leave."""
    if len(sigmas) == 0:
        return sigmas
    flipped = sigmas.flip(0)
    if flipped[0] == 0:
        flipped[0] = 1e-4
    return flipped


EASINGS: Mapping[str, Callable[[float], float]] = MappingProxyType(
    {"linear": lambda u: u, "cosine": lambda u: math.sin(u * math.pi / 2), "sine": lambda u: 1 - math.cos(u * math.pi / 2)}
)


def extend(sigmas: Tensor, steps: int, high: float, low: float, easing: str) -> Tensor:
    """Every step that leaves a level from `high` down to `low` cut into `steps`, at shares of its way that `easing` spaces."""
    ease = EASINGS[easing]
    out: list[float] = []
    levels: list[float] = sigmas.tolist()
    for level, following in itertools.pairwise(levels):
        cuts = steps if low <= level <= high else 1
        out += [level + ease(i / cuts) * (following - level) for i in range(cuts)]
    return torch.tensor(out + levels[-1:])
