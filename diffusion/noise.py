"""Seeded noise: drawn on the CPU from one generator per seed, so that a seed means the same picture on every device."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MAX_SEED = 2**64 - 1


def generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator for a seed 0 .. 2^64-1; the global random state is neither read nor moved."""
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed: 0..{MAX_SEED} is wanted, got {seed}")
    # manual_seed accepts 0 .. 2^64-1 as the same 64 bits that ComfyUI passes
    return torch.Generator(device).manual_seed(seed)


def prepare_noise(
    shape: Sequence[int],
    seed: int,
    batch_index: Sequence[int] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Standard normal noise (b, c, h, w) on the CPU, as ComfyUI draws it for a seed.

    Without batch_index the whole batch is one draw. With it, one (1, c, h, w) sample is drawn for every index 0 ..
    max and sample i of the result is draw number batch_index[i]: item 3 of a batch keeps its noise when it is taken
    out alone. (The two agree when c*h*w is a multiple of 16, where torch's vectorised draw is cut at sample borders.)
    """
    rng = generator(seed)
    if batch_index is None:
        return torch.randn(tuple(shape), generator=rng, dtype=dtype)
    if len(batch_index) != shape[0] or any(i < 0 for i in batch_index):
        raise ValueError(f"batch_index: {shape[0]} indices >= 0 are wanted, got {list(batch_index)}")
    wanted = set(batch_index)
    draws: dict[int, Tensor] = {}
    for i in range(max(wanted, default=-1) + 1):
        draw = torch.randn((1, *shape[1:]), generator=rng, dtype=dtype)
        if i in wanted:
            draws[i] = draw
    return torch.cat([draws[i] for i in batch_index])


def noise_to_level(latent: Tensor, noise: Tensor, sigma: float, sigma_max: float = math.inf) -> Tensor:
    """The VE state X that a sampler starts from at level sigma: latent + sigma * noise.

    From sigma_max on (within 1e-5 relative) the noise is scaled by sqrt(1 + sigma^2) instead: the model was trained
    to see unit variance there, also where the latent is empty. latent is in the model's scale, noise is standard
    normal.
    """
    full = sigma > sigma_max or math.isclose(sigma, sigma_max, rel_tol=1e-5)
    return latent + noise * (math.sqrt(1 + sigma**2) if full else sigma)
