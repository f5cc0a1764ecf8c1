"""Where stochastic samplers get their noise: independent draws, or the increments of one Brownian motion."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from diffusion.noise import MAX_SEED, generator

_LEVELS = 16  # halvings of an octave: points closer than 2^-16 relative share a leaf


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


@dataclass
class BrownianNoise:
    """Normalised increments (W(sigma) - W(sigma_next)) / sqrt|sigma - sigma_next| of one Brownian motion W per seed.

    W is a function of seed and sigma > 0 alone: neither the order of the queries nor the number of steps changes it,
    so the runs of an SDE solver with more and more steps converge to one picture. Octaves [2^k, 2^(k+1)) hang from
    W(1) = 0; inside, W is found by bisection, where each midpoint is drawn given its ends (Levy's construction: mean
    of the ends, variance a quarter of the width). Draws are made on the CPU, each from a generator of its own. The
    numbers differ from torchsde's.
    """

    seed: int
    x: Tensor = field(repr=False)  # gives shape, dtype and device
    _ends: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False)  # W(2^k)
    _recent: dict[float, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __call__(self, sigma: float, sigma_next: float) -> Tensor:
        if sigma == sigma_next:
            raise ValueError(f"noise: two different levels are wanted, got {sigma} twice")
        increment = (self.at(sigma) - self.at(sigma_next)) / math.sqrt(abs(sigma - sigma_next))
        return increment.to(self.x.device, self.x.dtype)

    def at(self, sigma: float) -> Tensor:
        """W(sigma), float32 on the CPU."""
        if not (sigma > 0 and math.isfinite(sigma)):
            raise ValueError(f"noise: a finite level > 0 is wanted, got {sigma}")
        if sigma not in self._recent:
            if len(self._recent) >= 4:  # the next step asks again only for the level where this one ends
                del self._recent[next(iter(self._recent))]
            self._recent[sigma] = self._bisect(sigma)
        return self._recent[sigma]

    def _bisect(self, sigma: float) -> Tensor:
        octave = math.frexp(sigma)[1] - 1  # 2^octave <= sigma < 2^(octave + 1)
        low, high = 2.0**octave, 2.0 ** (octave + 1)
        w_low, w_high = self._octave_end(octave), self._octave_end(octave + 1)
        node = 1
        for _ in range(_LEVELS):
            if sigma == low:
                return w_low
            middle = (low + high) / 2
            w_middle = (w_low + w_high) / 2 + math.sqrt((high - low) / 4) * self._draw(octave, node)
            if sigma < middle:
                high, w_high, node = middle, w_middle, 2 * node
            else:
                low, w_low, node = middle, w_middle, 2 * node + 1
        if sigma == low:
            return w_low
        u = (sigma - low) / (high - low)  # inside a leaf: one more bridge, straight to the point
        return (1 - u) * w_low + u * w_high + math.sqrt((high - low) * u * (1 - u)) * self._draw(octave, node, sigma)

    def _octave_end(self, octave: int) -> Tensor:
        """W(2^octave), by summing the increments of the octaves between it and 1."""
        if octave not in self._ends:
            if octave == 0:
                w = torch.zeros(self.x.shape)
            elif octave > 0:
                w = self._octave_end(octave - 1) + math.sqrt(2.0 ** (octave - 1)) * self._draw(octave - 1, 0)
            else:
                w = self._octave_end(octave + 1) - math.sqrt(2.0**octave) * self._draw(octave, 0)
            self._ends[octave] = w
        return self._ends[octave]

    def _draw(self, *place: float) -> Tensor:
        digest = hashlib.blake2b(repr((self.seed, *place)).encode(), digest_size=8).digest()
        rng = generator(int.from_bytes(digest, "little"))
        return torch.randn(self.x.shape, generator=rng)
