"""Noise levels: the training table of a model, and the list of levels that a sampler walks.

Two forms of one state, exchanged by a factor: variance preserving x_t = sqrt(ab) x0 + sqrt(1-ab) eps, and variance
exploding X = x_t / sqrt(ab) = x0 + sigma eps with sigma = sqrt((1-ab)/ab). Schedules carry sigma; a `Step` gives the
other form by name.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

# sqrt(ab_T) cannot be 0 in an eps-style parametrisation: sigma would be infinite. This ab_T gives sigma_max = 4518.76.
ZERO_SNR_ALPHA = 4.8973451890853435e-08


@dataclass(frozen=True, eq=False)
class Table:
    """The levels a discrete-time model was trained on, cleanest first: alphas_cumprod (n,), falling within (0, 1).

    Look-ups run in float32, as the reference implementation does, so that a level half-way between two indices falls to
    the same side. Source: Karras et al. 2022, appendix C.3.4 (VP models seen as sigma tables).
    """

    alphas_cumprod: Tensor  # (n,) float64
    stride: int = 1  # one level is so many timesteps: a distilled model knows every stride-th, the last of each stride
    continuous: bool = False  # the network is told log(sigma) / 4 instead of a timestep (Karras et al. 2022, table 1, EDM column)
    sigmas: Tensor = field(init=False, repr=False)  # (n,) float32, rising
    log_sigmas: Tensor = field(init=False, repr=False)  # (n,) float32

    def __post_init__(self) -> None:
        ab = torch.as_tensor(self.alphas_cumprod).detach().to("cpu", torch.float64)
        if ab.ndim != 1 or len(ab) < 2:
            raise ValueError(f"alphas_cumprod: a 1-D table of at least 2 levels is wanted, got shape {tuple(ab.shape)}")
        if not (bool((ab > 0).all()) and bool((ab < 1).all()) and bool((ab.diff() < 0).all())):
            raise ValueError("alphas_cumprod: values must fall strictly and lie between 0 and 1")
        sigmas = ((1 - ab) / ab).sqrt()
        object.__setattr__(self, "alphas_cumprod", ab)
        object.__setattr__(self, "sigmas", sigmas.float())
        object.__setattr__(self, "log_sigmas", sigmas.log().float())

    @classmethod
    def from_betas(cls, betas: Tensor | Sequence[float]) -> Table:
        """The table of a forward process given by its betas, each in (0, 1) (Ho et al. 2020, eq. 4)."""
        betas = torch.as_tensor(betas, dtype=torch.float64)
        return cls(torch.cumprod(1 - betas, dim=0))

    @classmethod
    def scaled_linear(cls, beta_start: float = 0.00085, beta_end: float = 0.012, n: int = 1000) -> Table:
        """Stable Diffusion's table: beta = linspace(sqrt(start), sqrt(end), n)^2 (Rombach et al. 2022, appendix)."""
        return cls.from_betas(torch.linspace(beta_start**0.5, beta_end**0.5, n, dtype=torch.float64) ** 2)

    def zero_terminal_snr(self) -> Table:
        """The table with sqrt(ab) shifted and scaled so that it ends in almost pure noise (Lin et al. 2024, alg. 1).

        Only v- or x0-predicting models can start there: at the last level eps says nothing about x0.
        """
        root = self.alphas_cumprod.sqrt()
        ab = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
        ab[-1] = ZERO_SNR_ALPHA
        return Table(ab)

    def every(self, stride: int) -> Table:
        """The table of a model distilled to every stride-th level, the noisiest among them."""
        return Table(self.alphas_cumprod[stride - 1 :: stride], stride)

    @classmethod
    def log_linear(cls, sigma_min: float, sigma_max: float, n: int = 1000) -> Table:
        """Levels evenly spaced in log sigma, of a network that was trained on all levels between two."""
        if not 0 < sigma_min < sigma_max:
            raise ValueError(f"sigma_min and sigma_max: 0 < sigma_min < sigma_max is wanted, {sigma_min} and {sigma_max} given")
        sigmas = torch.linspace(math.log(sigma_min), math.log(sigma_max), n, dtype=torch.float64).exp()
        return cls(1 / (1 + sigmas**2), continuous=True)

    def __len__(self) -> int:
        return len(self.sigmas)

    @property
    def sigma_min(self) -> float:
        return self.sigmas[0].item()

    @property
    def sigma_max(self) -> float:
        return self.sigmas[-1].item()

    def sigma(self, t: float) -> float:
        """sigma at a possibly fractional index t, log-linear between neighbours; t is clamped to the table."""
        return self.sigmas_at(torch.tensor([t], dtype=torch.float32)).item()

    def sigmas_at(self, t: Tensor) -> Tensor:
        """`sigma` of many indices at once: t (m,) -> (m,) float32."""
        t = t.float().clamp(0, len(self) - 1)
        low, high, w = t.floor().long(), t.ceil().long(), t.frac()
        return ((1 - w) * self.log_sigmas[low] + w * self.log_sigmas[high]).exp()

    def t(self, sigma: float) -> int:
        """The index of the level nearest to sigma on the log scale; 0 for sigma = 0."""
        if not sigma >= 0:
            raise ValueError(f"sigma: a level >= 0 is wanted, got {sigma}")
        if sigma == 0:
            return 0
        log_sigma = torch.tensor([sigma], dtype=torch.float32).log()
        return int((log_sigma - self.log_sigmas).abs().argmin())

    def told(self, sigma: float) -> float:
        """What the network is told about a level: the timestep, a whole number, of the nearest one; continuous networks log(sigma) / 4."""
        if self.continuous:
            return math.log(sigma) / 4
        return self.t(sigma) * self.stride + self.stride - 1

    def percent_to_sigma(self, percent: float) -> float:
        """The level where a run is `percent` (0..1) through the table: 0 -> beyond any level, 1 -> 0."""
        if percent <= 0:
            return 999999999.9
        if percent >= 1:
            return 0.0
        timestep = (1 - percent) * (len(self) * self.stride - 1)
        return self.sigma((timestep - (self.stride - 1)) / self.stride)


@dataclass(frozen=True, slots=True)
class Step:
    """One move from level `sigma` to level `sigma_next`; index counts from 0.

    `t` is the index the network is told. It belongs to the noisier end, `sigma_net`, in both directions: a denoising
    step asks at the level it leaves, an inversion step at the level it goes to ("target time"), so that inverting and
    denoising over one list ask the network at the same levels. Greek names with _t and _u are the VP form: x_t =
    alpha_t x0 + sigma_t eps here, x_u = alpha_u x0 + sigma_u eps after the step (Song et al. 2021, eq. 12).
    """

    index: int
    sigmas: tuple[float, ...]  # the whole walk: solvers with look-ahead or memory read their neighbours here
    t: int
    table: Table = field(repr=False)  # the levels that the model was trained on

    @property
    def count(self) -> int:
        return len(self.sigmas) - 1

    @property
    def sigma(self) -> float:
        return self.sigmas[self.index]

    @property
    def sigma_next(self) -> float:
        return self.sigmas[self.index + 1]

    @property
    def last(self) -> bool:
        return self.index == self.count - 1

    @property
    def ascending(self) -> bool:
        return self.sigma_next > self.sigma

    @property
    def sigma_net(self) -> float:
        return max(self.sigma, self.sigma_next)

    @property
    def alpha_t(self) -> float:
        return 1 / math.sqrt(1 + self.sigma**2)

    @property
    def sigma_t(self) -> float:
        return self.sigma * self.alpha_t

    @property
    def alpha_u(self) -> float:
        return 1 / math.sqrt(1 + self.sigma_next**2)

    @property
    def sigma_u(self) -> float:
        return self.sigma_next * self.alpha_u

    @property
    def a(self) -> float:
        """x_u = a x_t + b eps is the DDIM step in one line."""
        return self.alpha_u / self.alpha_t

    @property
    def b(self) -> float:
        return self.sigma_u - self.a * self.sigma_t


@dataclass(frozen=True, eq=False)
class Schedule(Sequence[Step]):
    """The steps between consecutive levels, over a model's table; read it forwards to denoise, `reversed()` to invert.

    sigmas: finite levels >= 0, usually falling; a level that repeats its predecessor is no step and is dropped. One
    level or none makes no steps: nothing is to be done.
    """

    table: Table
    sigmas: tuple[float, ...]

    def __init__(self, table: Table, sigmas: Tensor | Sequence[float]) -> None:
        levels = [float(s) for s in (sigmas.tolist() if isinstance(sigmas, Tensor) else sigmas)]
        if not all(math.isfinite(s) and s >= 0 for s in levels):
            raise ValueError(f"sigmas: finite levels >= 0 are wanted, got {levels}")
        object.__setattr__(self, "table", table)
        object.__setattr__(self, "sigmas", tuple(s for i, s in enumerate(levels) if i == 0 or s != levels[i - 1]))

    @classmethod
    def at(cls, table: Table, timesteps: Sequence[int], last: float = 0.0) -> Schedule:
        """The schedule through the given table indices (noisiest first), ending at level `last`."""
        bad = [t for t in timesteps if not 0 <= t < len(table)]
        if bad:
            raise ValueError(f"timesteps: indices 0..{len(table) - 1} are wanted, got {bad}")
        return cls(table, [*(table.sigmas[t].item() for t in timesteps), last])

    def reversed(self) -> Schedule:
        """The same levels walked the other way: DDIM on it is DDIM inversion."""
        return Schedule(self.table, self.sigmas[::-1])

    def __len__(self) -> int:
        return max(len(self.sigmas) - 1, 0)

    def __getitem__(self, index: int) -> Step:  # type: ignore[override]  # a slice of a schedule is made from sigmas
        if not -len(self) <= index < len(self):
            raise IndexError(f"step {index} of a schedule with {len(self)} steps")
        index %= len(self)
        return Step(index, self.sigmas, self.table.t(max(self.sigmas[index], self.sigmas[index + 1])), self.table)

    def __iter__(self) -> Iterator[Step]:
        return (self[i] for i in range(len(self)))
