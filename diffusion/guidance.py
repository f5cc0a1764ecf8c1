"""How the predictions of named branches become one: classifier-free guidance and its relatives, as frozen descriptions.

All formulas act on denoised predictions D (VE form); because they are affine with weights that sum to one, they are the same on ε.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from diffusion.patch import GuideCall
from diffusion.values import Conditioning


class Guidance(Protocol):
    """Named branches and how they combine."""

    def branches(self) -> Mapping[str, Conditioning]:
        """What to evaluate, by name."""

    def optional(self) -> frozenset[str]:
        """Branches whose predictions `combine` can do without at these settings."""

    def combine(self, call: GuideCall) -> Tensor:
        """The guided D from `call.preds`."""


@dataclass(frozen=True, slots=True, eq=False)
class Conditional:
    """One branch, "positive", and no guidance."""

    positive: Conditioning

    def branches(self) -> Mapping[str, Conditioning]:
        """Only the positive branch."""
        return {"positive": self.positive}

    def optional(self) -> frozenset[str]:
        """None."""
        return frozenset()

    def combine(self, call: GuideCall) -> Tensor:
        """The branch itself."""
        return call.preds["positive"]


@dataclass(frozen=True, slots=True, eq=False)
class CFG:
    """Classifier-free guidance D = D_n + scale·(D_p − D_n) (Ho & Salimans 2022, in the form of Imagen: scale 1 is purely conditional)."""

    positive: Conditioning
    negative: Conditioning
    scale: float

    def branches(self) -> Mapping[str, Conditioning]:
        """Positive and negative."""
        return {"positive": self.positive, "negative": self.negative}

    def optional(self) -> frozenset[str]:
        """The negative branch at scale 1."""
        return frozenset({"negative"} if self.scale == 1 else ())

    def combine(self, call: GuideCall) -> Tensor:
        """D_n + scale·(D_p − D_n)."""
        positive, negative = call.preds["positive"], call.preds.get("negative")
        if negative is None:
            return positive
        return negative + (positive - negative) * self.scale


@dataclass(frozen=True, slots=True, eq=False)
class DualCFG:
    """Guidance by two conditionings: D_n + scale_2·(D_2 − D_n) + scale_1·(D_1 − D_2) (Brooks et al. 2023, eq. 3).

    `nested` guides D_1 against D_2 first and the result against D_n.
    """

    first: Conditioning
    second: Conditioning
    negative: Conditioning
    first_scale: float
    second_scale: float
    nested: bool = False

    def branches(self) -> Mapping[str, Conditioning]:
        """The two conditionings, called "positive" and "middle", and "negative"."""
        return {"positive": self.first, "middle": self.second, "negative": self.negative}

    def optional(self) -> frozenset[str]:
        """None."""
        return frozenset()

    def combine(self, call: GuideCall) -> Tensor:
        """D_n + scale_2·(D_2 − D_n) + scale_1·(D_1 − D_2), or nested."""
        first, second, negative = (call.preds[name] for name in ("positive", "middle", "negative"))
        if self.nested:
            inner = second + (first - second) * self.first_scale
            return negative + (inner - negative) * self.second_scale
        return negative + (second - negative) * self.second_scale + (first - second) * self.first_scale
