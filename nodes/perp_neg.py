"""Negative prompts that take nothing away from what the positive asks for (Armandpour et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from torch import Tensor

from diffusion import guidance
from diffusion.guidance import GuidanceRule, perpendicular, ruled
from diffusion.patch import Combine, GuideCall
from diffusion.values import Conditioning, Guider, Model
from graph_engine.node import Node
from nodes.params import Scale, number

if TYPE_CHECKING:
    from graph_engine.context import Context


@dataclass(frozen=True, slots=True, eq=False)
class PerpendicularNegative(GuidanceRule):
    """The rule as a change of a model: whatever guides by "positive" and "negative" does so from the empty prompt to the new target."""

    empty: Conditioning
    weight: float

    def branches(self, branches: Mapping[str, Conditioning]) -> Mapping[str, Conditioning]:
        """With the empty prompt."""
        return {**branches, "empty": self.empty}

    def needs(self) -> frozenset[str]:
        """The negative."""
        return frozenset({"negative"})

    def combine(self, call: GuideCall, next: Combine) -> Tensor:
        """Guidance between other predictions."""
        if "negative" not in call.preds:  # there is none, as with a basic guider
            return next(call)
        empty = call.preds["empty"]
        target = perpendicular(call.preds["positive"], call.preds["negative"], empty, self.weight)
        return next(replace(call, preds={**call.preds, "positive": target, "negative": empty}))


# nodes

Empty = Annotated[Conditioning, Field(description="The encoding of an empty prompt.")]
Weight = Annotated[float, number(0, 100, 0.01, "How much of the negative's perpendicular part is subtracted.")]


class PerpNeg(Node, category="advanced/model", title="Perp-Neg (use the guider instead)", deprecated=True):
    """Let the negative prompt act only perpendicularly to the positive one (Armandpour et al. 2023)."""

    model: Model
    empty_conditioning: Empty
    neg_scale: Weight = 1.0

    def run(self, ctx: Context) -> Model:
        return ruled(self.model, PerpendicularNegative(self.empty_conditioning, self.neg_scale))


class PerpNegGuider(Node, category="sampling/custom_sampling/guiders", title="Perp-Neg Guider", aliases=("negative prompt",)):
    """Guidance in which the negative prompt acts only perpendicularly to the positive one (Armandpour et al. 2023)."""

    model: Model
    positive: Conditioning
    negative: Conditioning
    empty_conditioning: Empty
    cfg: Scale = 8.0
    neg_scale: Weight = 1.0

    def run(self, ctx: Context) -> Guider:
        rule = guidance.PerpNeg(self.positive, self.negative, self.empty_conditioning, self.cfg, self.neg_scale)
        return Guider(self.model, rule)
