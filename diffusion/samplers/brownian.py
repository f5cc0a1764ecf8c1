"""Noise that is the increments of one Brownian motion per seed: a function of the level, not of when it is asked for.

The motion lives on a binary tree of intervals. An interval's increment is known, and its halves get theirs by a
Brownian bridge, from a draw whose generator is seeded with the run's seed and the interval's place in the tree
(Levy's construction; "virtual Brownian tree", Li et al. 2020, sec. 4). Layout and seeding are those of torchsde's
`BrownianTree`, and so are the numbers: with them a seed means the same picture as in ComfyUI.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from diffusion.noise import generator

_DIGITS = 6  # levels are told apart to 1e-6
_TOLERANCE = 1e-6
_POOL = 24  # words of entropy that a seed sequence mixes


@dataclass(frozen=True, slots=True)
class Interval:
    """A node of the tree: the `place`-th interval, from the left, of the 2^depth at its depth."""

    start: float
    end: float
    depth: int = 0
    place: int = 0

    def halves(self) -> tuple[Interval, Interval]:
        """The left and the right half, cut in the middle (rounded to `_DIGITS`)."""
        middle = round(0.5 * (self.end + self.start), _DIGITS)
        depth, place = self.depth + 1, 2 * self.place
        return Interval(self.start, middle, depth, place), Interval(middle, self.end, depth, place + 1)


class BrownianTree:
    """The increments of a Brownian motion on [low, high], float tensors of one shape on the CPU."""

    def __init__(self, seed: int, low: float, high: float, like: Tensor) -> None:
        self._seed, self._shape, self._dtype = seed, like.shape, like.dtype
        self._root = Interval(round(low, _DIGITS), round(high, _DIGITS))
        entropy = np.random.SeedSequence(seed, pool_size=_POOL).generate_state(3)
        self._whole = self._draw(entropy[0]) * math.sqrt(high - low)
        self._last: dict[Interval, Tensor] = {}  # left halves that the query before looked up: the next shares an end with it

    def __call__(self, a: float, b: float) -> Tensor:
        """W(b) - W(a) for low <= a < b <= high. Raises ValueError for levels outside, or closer than 1e-6."""
        low, high = self._root.start, self._root.end
        if not (low - _TOLERANCE <= a <= b <= high + _TOLERANCE):
            raise ValueError(f"noise: levels from {low} to {high} are wanted, got {a} and {b}")
        a, b = max(round(a, _DIGITS), low), min(round(b, _DIGITS), high)
        if a >= b:
            raise ValueError(f"noise: levels at least {_TOLERANCE} apart are wanted, got {a} and {b}")
        seen: dict[Interval, Tensor] = {}
        total = reduce(torch.add, self._cover(self._root, self._whole, a, b, seen))
        self._last = seen
        return total

    def _cover(self, interval: Interval, w: Tensor, a: float, b: float, seen: dict[Interval, Tensor]) -> Iterator[Tensor]:
        """The increments, from left to right, of the fewest intervals that make up [a, b]; w is that of `interval`."""
        if (interval.start, interval.end) == (a, b):
            yield w
            return
        left, right = interval.halves()
        w_left = seen[interval] = self._last[interval] if interval in self._last else self._bridge(interval, left.end, w)
        if a < left.end:
            yield from self._cover(left, w_left, a, min(b, left.end), seen)
        if b > right.start:
            yield from self._cover(right, w - w_left, max(a, right.start), b, seen)

    def _bridge(self, interval: Interval, middle: float, w: Tensor) -> Tensor:
        """The increment up to `middle`, given that w of the whole interval: normal about the line between the ends."""
        before, after, per_width = middle - interval.start, interval.end - middle, 1 / (interval.end - interval.start)
        entropy = np.random.SeedSequence(self._seed, spawn_key=(interval.place, interval.depth), pool_size=_POOL).generate_state(4)
        return before * w * per_width + math.sqrt(before * after * per_width) * self._draw(entropy[0])

    def _draw(self, seed: int) -> Tensor:
        return torch.randn(self._shape, generator=generator(int(seed)), dtype=self._dtype)


class BrownianNoise:
    """Increments of one Brownian motion per seed, each divided by the root of its length: unit normal noise for a run on x.

    The motion spans the levels `low` to `high` of the run, and is drawn on the CPU wherever x is.
    """

    def __init__(self, seed: int, x: Tensor, low: float, high: float) -> None:
        self._tree = BrownianTree(seed, low, high, x)
        self._device = x.device

    def __call__(self, sigma: float, sigma_next: float) -> Tensor:
        if sigma == sigma_next:
            raise ValueError(f"noise: two different levels are wanted, got {sigma} twice")
        length = (torch.tensor(sigma) - torch.tensor(sigma_next)).abs().sqrt()
        increment = self._tree(sigma, sigma_next) if sigma < sigma_next else -self._tree(sigma_next, sigma)
        return (increment / length).to(self._device)
