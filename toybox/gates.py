"""Measured values with their uncertainty, and whether they meet what is asked of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite, sqrt
from statistics import fmean, stdev
from typing import Literal

Z = 1.959964  # 95 % of a normal distribution lies within so many standard deviations


@dataclass(frozen=True, slots=True)
class Gate:
    """One measurement: value, how many pictures it rests on, its 95 % interval, and the bound it is held against."""

    name: str
    value: float
    n: int
    low: float
    high: float
    bound: float
    unit: Literal["%", "dB", ""]
    at_most: bool = False  # the bound is an upper one
    goal: bool = False  # reported, but failing it fails nothing
    note: str = ""

    @property
    def met(self) -> bool:
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    @property
    def failed(self) -> bool:
        return not self.met and not self.goal

    def line(self) -> str:
        """A row of the table that the evaluation prints."""
        scale, digits = {"%": (100, 1), "dB": (1, 1), "": (1, 3)}[self.unit]
        value, low, high, bound = (f"{x * scale:.{digits}f}" for x in (self.value, self.low, self.high, self.bound))
        verdict = "ok" if self.met else ("goal missed" if self.goal else "FAILED")
        wanted = f"{'<=' if self.at_most else '>='} {bound}"
        text = f"{self.name:<46} {value:>7} {self.unit:<2} [{low:>6}, {high:>6}]  n {self.n:<5} {wanted:<9} {verdict}"
        return text + (f"  ({self.note})" if self.note else "")

    def as_dict(self) -> dict[str, object]:
        return asdict(self) | {"met": self.met}


def wilson(hits: int, n: int) -> tuple[float, float]:
    """The 95 % score interval of a rate (Wilson 1927)."""
    if not 0 <= hits <= n or n == 0:
        raise ValueError(f"{hits} hits of {n} are no rate")
    p, z2 = hits / n, Z * Z
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z * sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def rate(name: str, hits: Sequence[bool], bound: float, *, at_most: bool = False, goal: bool = False, note: str = "") -> Gate:
    """A gate on how often something holds."""
    low, high = wilson(sum(hits), len(hits))
    return Gate(name, sum(hits) / len(hits), len(hits), low, high, bound, "%", at_most, goal, note)


def mean(name: str, values: Sequence[float], bound: float, unit: Literal["dB", ""], *, note: str = "") -> Gate:
    """A gate on a mean, with the normal interval of the standard error. ValueError where a value is not finite."""
    if len(values) < 2 or not all(isfinite(v) for v in values):
        raise ValueError(f"{name}: a mean wants two finite values at least")
    middle, half = fmean(values), Z * stdev(values) / sqrt(len(values))
    return Gate(name, middle, len(values), middle - half, middle + half, bound, unit, note=note)
