"""Independent noise for the steps of a stochastic sampler."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion.noise import MAX_SEED, generator


class WhiteNoise:
    """Independent draws for a run on x, in the order in which they are asked for.

    The generator lives on x's device. On the CPU it is seeded with seed + 1: with the same seed it would repeat the
    initial noise, which was drawn there.
    """

    def __init__(self, seed: int, x: Tensor) -> None:
        on_cpu = x.device.type == "cpu"
        self._generator = generator((seed + on_cpu) % (MAX_SEED + 1), x.device)
        self._shape, self._dtype, self._device = x.shape, x.dtype, x.device

    def __call__(self, sigma: float, sigma_next: float) -> Tensor:
        return torch.randn(self._shape, generator=self._generator, dtype=self._dtype, device=self._device)
