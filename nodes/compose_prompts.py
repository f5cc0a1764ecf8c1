"""Composable prompts (Liu et al. 2022): several prompts at once, each with a weight of its own; a negative weight is NOT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field
from torch import Tensor

from diffusion.patch import Combine, GuidancePatch, GuideCall, Run
from diffusion.values import Conditioning, Model
from graph_engine.node import Node
from nodes.params import number

if TYPE_CHECKING:
    from graph_engine.context import Context


@dataclass(frozen=True, slots=True, eq=False)
class Composed(GuidancePatch):
    """D ← D + w·(D(prompt) − D_u): with guidance by a first prompt before it D_u + Σ wᵢ·(Dᵢ − D_u) (eq. 11; with w < 0 eq. 13)."""

    prompt: Conditioning
    weight: float

    def begin(self, run: Run) -> Any:
        """A state that names its own branch, so that several can be chained."""
        return _Composing(self.prompt, self.weight)


@dataclass(slots=True, eq=False)
class _Composing(GuidancePatch):
    prompt: Conditioning
    weight: float
    name: str = ""

    def branches(self, branches: Mapping[str, Conditioning]) -> Mapping[str, Conditioning]:
        """One more than given. Raises ValueError without a negative, from which all prompts are seen."""
        if "negative" not in branches:
            raise ValueError("guider: one with a negative conditioning is wanted to compose prompts (KSampler or CFGGuider)")
        self.name = f"composed {sum(name.startswith('composed') for name in branches) + 1}"
        return {**branches, self.name: self.prompt}

    def needs(self) -> frozenset[str]:
        """The unconditional prediction."""
        return frozenset({"negative"})

    def combine(self, call: GuideCall, next: Combine) -> Tensor:
        """What is guided so far, and this prompt's share."""
        return next(call) + (call.preds[self.name] - call.preds["negative"]) * self.weight


# node


class ComposePrompts(Node, category="editing/guidance", title="Compose Prompts (AND, NOT)", aliases=("composable diffusion", "and", "not")):
    """Ask for one more thing, or with a negative weight against it, beside the sampler's own prompt (Liu et al. 2022); nodes chain.

    The sampler's own prompt counts by its guidance scale; all prompts are seen from its negative, best an empty one.
    """

    model: Annotated[Model, Field(description="The denoiser.")]
    conditioning: Annotated[Conditioning, Field(description="The further prompt.")]
    weight: Annotated[float, number(-100, 100, 0.1, "Its guidance scale; below 0 leads away from it (NOT), 0 leaves it out.")] = 3.0

    def run(self, ctx: Context) -> Model:
        return self.model.patched(Composed(self.conditioning, self.weight)) if self.weight else self.model
