"""What conditionings hold, where and when: thin nodes over diffusion.conditioning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from diffusion import conditioning as on
from diffusion.values import Conditioning, Mask
from graph_engine.node import Node
from nodes.params import CELL, AreaSide, LatentOffset, Strength, Unit, number

if TYPE_CHECKING:
    from graph_engine.context import Context


class ConditioningCombine(Node, category="conditioning", title="Conditioning (Combine)", aliases=("and", "merge prompts")):
    """Both conditionings: each is evaluated on its own, and where they overlap the predictions are averaged by strength."""

    conditioning_1: Conditioning
    conditioning_2: Conditioning

    def run(self, ctx: Context) -> Conditioning:
        return on.combine(self.conditioning_1, self.conditioning_2)


class ConditioningAverage(Node, category="conditioning", title="Conditioning (Average)", aliases=("mix prompts", "interpolate")):
    """Mix two encodings into one: conditioning_to · strength + conditioning_from · (1 − strength)."""

    conditioning_to: Conditioning
    conditioning_from: Annotated[Conditioning, Field(description="Only its first entry counts.")]
    conditioning_to_strength: Annotated[Unit, Field(description="1: only conditioning_to; 0: only conditioning_from.")] = 1.0

    def run(self, ctx: Context) -> Conditioning:
        return on.average(self.conditioning_to, self.conditioning_from, self.conditioning_to_strength)


class ConditioningConcat(Node, category="conditioning", title="Conditioning (Concat)", aliases=("join prompts", "break")):
    """One conditioning with the words of both, those of conditioning_from last."""

    conditioning_to: Conditioning
    conditioning_from: Annotated[Conditioning, Field(description="Only its first entry counts.")]

    def run(self, ctx: Context) -> Conditioning:
        return on.concat(self.conditioning_to, self.conditioning_from)


class ConditioningSetArea(Node, category="conditioning", title="Conditioning (Set Area)", aliases=("regional prompt", "composition")):
    """Let a conditioning hold in a rectangle of the picture only; combine several for a composition."""

    conditioning: Conditioning
    width: AreaSide = 64
    height: AreaSide = 64
    x: LatentOffset = 0
    y: LatentOffset = 0
    strength: Strength = 1.0

    def run(self, ctx: Context) -> Conditioning:
        height, width, y, x = (side // CELL for side in (self.height, self.width, self.y, self.x))
        return on.set_area(self.conditioning, height, width, y, x, self.strength)


class ConditioningSetAreaPercentage(
    Node, category="conditioning", title="Conditioning (Set Area with Percentage)", aliases=("regional prompt",)
):
    """Let a conditioning hold in a rectangle given as shares of the picture's width and height."""

    conditioning: Conditioning
    width: Unit = 1.0
    height: Unit = 1.0
    x: Unit = 0.0
    y: Unit = 0.0
    strength: Strength = 1.0

    def run(self, ctx: Context) -> Conditioning:
        return on.set_area(self.conditioning, self.height, self.width, self.y, self.x, self.strength, relative=True)


class ConditioningSetAreaStrength(Node, category="conditioning", title="Conditioning (Set Area Strength)", aliases=("weight",)):
    """Weigh a conditioning against the others that hold in the same place."""

    conditioning: Conditioning
    strength: Strength = 1.0

    def run(self, ctx: Context) -> Conditioning:
        return on.set_strength(self.conditioning, self.strength)


class ConditioningSetMask(Node, category="conditioning", title="Conditioning (Set Mask)", aliases=("regional prompt",)):
    """Let a conditioning hold where a mask does."""

    conditioning: Conditioning
    mask: Annotated[Mask, Field(description="Resized to the latent; grey counts partly.")]
    strength: Strength = 1.0
    set_cond_area: Annotated[
        Literal["default", "mask bounds"],
        Field(description="mask bounds: the network sees only the mask's bounding box; default: the whole picture."),
    ] = "default"

    def run(self, ctx: Context) -> Conditioning:
        return on.set_mask(self.conditioning, self.mask, self.strength, bounds=self.set_cond_area == "mask bounds")


class ConditioningSetTimestepRange(Node, category="conditioning", title="Conditioning (Set Timestep Range)", aliases=("prompt schedule",)):
    """Let a conditioning hold during a part of the denoising: 0 is its noisy beginning, 1 its clean end."""

    conditioning: Conditioning
    start: Annotated[float, number(0, 1, 0.001, "From here, as a share of the training timesteps.")] = 0.0
    end: Annotated[float, number(0, 1, 0.001, "To here.")] = 1.0

    def run(self, ctx: Context) -> Conditioning:
        return on.set_timestep_range(self.conditioning, self.start, self.end)


class ConditioningZeroOut(Node, category="conditioning", title="Conditioning (Zero Out)", aliases=("empty prompt", "unconditional")):
    """Embeddings of zeros in the shape of the given ones: what many models learned as "no text"."""

    conditioning: Conditioning

    def run(self, ctx: Context) -> Conditioning:
        return on.zero_out(self.conditioning)
