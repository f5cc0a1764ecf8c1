"""A model together with what guides it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from diffusion.guidance import CFG, Conditional, DualCFG
from diffusion.values import Conditioning, Guider, Model
from graph_engine.node import Node
from nodes.params import Scale

if TYPE_CHECKING:
    from graph_engine.context import Context


class BasicGuider(Node, category="sampling/custom_sampling/guiders", title="Basic Guider"):
    """The conditional prediction alone."""

    model: Model
    conditioning: Conditioning

    def run(self, ctx: Context) -> Guider:
        return Guider(self.model, Conditional(self.conditioning))


class CFGGuider(Node, category="sampling/custom_sampling/guiders", title="CFG Guider", aliases=("classifier-free guidance",)):
    """Classifier-free guidance (Ho & Salimans 2022): negative + cfg · (positive − negative)."""

    model: Model
    positive: Conditioning
    negative: Conditioning
    cfg: Scale = 8.0

    def run(self, ctx: Context) -> Guider:
        return Guider(self.model, CFG(self.positive, self.negative, self.cfg))


class DualCFGGuider(Node, category="sampling/custom_sampling/guiders", title="Dual CFG Guider", aliases=("instruct pix2pix",)):
    """Guidance by two conditionings, each with a scale of its own (Brooks et al. 2023, eq. 3)."""

    model: Model
    cond1: Conditioning
    cond2: Conditioning
    negative: Conditioning
    cfg_conds: Annotated[Scale, Field(description="How much to follow cond1 more than cond2.")] = 8.0
    cfg_cond2_negative: Annotated[Scale, Field(description="How much to follow cond2 more than the negative.")] = 8.0
    style: Annotated[
        Literal["regular", "nested"],
        Field(description="regular: both differences add up; nested: cond1 is guided against cond2, the result against the negative."),
    ] = "regular"

    def run(self, ctx: Context) -> Guider:
        scales = (self.cfg_conds, self.cfg_cond2_negative)
        return Guider(self.model, DualCFG(self.cond1, self.cond2, self.negative, *scales, nested=self.style == "nested"))
