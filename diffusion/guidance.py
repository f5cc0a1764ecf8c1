"""How the predictions of named branches become one: classifier-free guidance and its relatives, as frozen descriptions.

All formulas act on denoised predictions D (VE form); because they are affine with weights that sum to one, they are the same on ε.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from diffusion.patch import GuidancePatch, GuideCall
from diffusion.values import Conditioning, Model


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


def perpendicular(positive: Tensor, negative: Tensor, empty: Tensor, weight: float) -> Tensor:
    """The prediction to follow instead of `positive`, so that the negative prompt takes nothing from what the positive asks for.

    Both are seen from the empty prompt; only the part of the negative that is perpendicular to the positive is subtracted (Armandpour et
    al. 2023, "Perp-Neg", eq. 9). One inner product over the whole batch, as ComfyUI takes it.
    """
    towards, away = positive - empty, negative - empty
    along = (away * towards).sum() / towards.square().sum().clamp(min=1e-30)
    return empty + towards - weight * (away - along * towards)


@dataclass(frozen=True, slots=True, eq=False)
class PerpNeg:
    """Guidance with a perpendicular negative: D_e + scale·(D' − D_e), D' from `perpendicular` (Armandpour et al. 2023)."""

    positive: Conditioning
    negative: Conditioning
    empty: Conditioning
    scale: float
    weight: float

    def branches(self) -> Mapping[str, Conditioning]:
        """Positive, negative and empty."""
        return {"positive": self.positive, "negative": self.negative, "empty": self.empty}

    def optional(self) -> frozenset[str]:
        """None."""
        return frozenset()

    def combine(self, call: GuideCall) -> Tensor:
        """D_e + scale·(D' − D_e)."""
        positive, negative, empty = (call.preds[name] for name in ("positive", "negative", "empty"))
        return empty + (perpendicular(positive, negative, empty, self.weight) - empty) * self.scale


class GuidanceRule(GuidancePatch):
    """Another rule in the place of plain guidance. Of several on one model the last one counts."""

    __slots__ = ()


def ruled(model: Model, rule: GuidanceRule) -> Model:
    """The model with this rule of guidance: it goes innermost, so that what other patches add to the guided result comes after it."""
    return replace(model, patches=(rule, *(patch for patch in model.patches if not isinstance(patch, GuidanceRule))))
