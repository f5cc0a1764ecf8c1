"""Data whose denoiser is known exactly, so that a sampler can be held against the truth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from diffusion.samplers import Bare, NoiseSource, integrate, make_stepper, no_noise
from diffusion.schedule import Schedule, Table


@dataclass(frozen=True)
class Gaussian:
    """Data ~ N(mu, s^2) in every coordinate: the posterior mean is linear, and so is the flow."""

    mu: float = 0.4
    s: float = 0.5

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        return (self.s**2 * x + sigma**2 * self.mu) / (self.s**2 + sigma**2)

    def flow(self, x: Tensor, sigma: float, sigma_next: float) -> Tensor:
        """The exact solution of the probability-flow ODE between two levels."""
        scale = math.sqrt((self.s**2 + sigma_next**2) / (self.s**2 + sigma**2))
        return self.mu + (x - self.mu) * scale


@dataclass(frozen=True)
class Mixture:
    """Data ~ two normal bumps at -1 (weight 0.3) and 0.6: a nonlinear denoiser."""

    s: float = 0.25

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        variance = self.s**2 + sigma**2
        means, weights = (-1.0, 0.6), (0.3, 0.7)
        logits = torch.stack([math.log(w) - (x - m) ** 2 / (2 * variance) for m, w in zip(means, weights, strict=True)])
        estimates = torch.stack([(self.s**2 * x + sigma**2 * m) / variance for m in means])
        return (logits.softmax(dim=0) * estimates).sum(dim=0)


@pytest.fixture(scope="session")
def table() -> Table:
    return Table.scaled_linear()


@pytest.fixture
def gaussian() -> Gaussian:
    return Gaussian()


@pytest.fixture
def mixture() -> Mixture:
    return Mixture()


@pytest.fixture
def start():
    """start(sigma, n): n float64 states of level sigma, the same every time."""

    def make(sigma: float, n: int = 64) -> Tensor:
        rng = torch.Generator().manual_seed(11)
        return torch.randn(n, generator=rng, dtype=torch.float64) * sigma

    return make


@pytest.fixture
def white():
    """white(x): the same unit normal noise for a run on x every time it is made."""

    def make(x: Tensor, seed: int = 2) -> NoiseSource:
        rng = torch.Generator().manual_seed(seed)
        return lambda sigma, sigma_next: torch.randn(x.shape, generator=rng, dtype=x.dtype)

    return make


@pytest.fixture
def run(table):
    """run(name, denoiser, x, sigmas, noise, negative, **options): the result of a sampler.

    `negative` is the denoiser of the negative branch; by default the same.
    """

    def sample(name, denoise, x, sigmas, noise: NoiseSource = no_noise, negative=None, **options) -> Tensor:
        net = Bare(denoise, negative or denoise)
        return integrate(make_stepper(name, **options), net, x, Schedule(table, sigmas), noise)

    return sample
