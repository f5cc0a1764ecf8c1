"""Perturbed-attention guidance (Ahn et al. 2024): away from what the network paints when it cannot look around."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from torch import Tensor

from diffusion.patch import Attend, AttentionPatch, AttnCall, Combine, GuidancePatch, GuideCall, Site
from diffusion.values import Conditioning, Model
from graph_engine.node import Node
from nodes.params import number

if TYPE_CHECKING:
    from graph_engine.context import Context

PERTURBED = "perturbed"


@dataclass(frozen=True, slots=True)
class Perturbed(GuidancePatch, AttentionPatch):
    """A further branch like the positive one, in whose middle block each place attends to itself alone."""

    scale: float

    def branches(self, branches: Mapping[str, Conditioning]) -> Mapping[str, Conditioning]:
        """One more than given."""
        return {**branches, PERTURBED: branches["positive"]}

    def at_site(self, site: Site) -> bool:
        """Self-attention of the middle block."""
        return site.place == "mid" and not site.cross

    def __call__(self, call: AttnCall, next: Attend) -> Tensor:
        """The identity in place of the map: the values themselves (eq. 13)."""
        out = next(call)
        if PERTURBED in call.rows:
            rows = call.rows[PERTURBED]
            out = out.clone()
            out[rows] = call.v[rows]
        return out

    def combine(self, call: GuideCall, next: Combine) -> Tensor:
        """The guided D + scale·(D_positive − D_perturbed) (eq. 15)."""
        return next(call) + (call.preds["positive"] - call.preds[PERTURBED]) * self.scale


# node


class PerturbedAttentionGuidance(Node, category="model_patches/unet", title="Perturbed-Attention Guidance", aliases=("pag", "quality")):
    """Guide away from a prediction whose middle self-attention is off (Ahn et al. 2024); one evaluation more a step."""

    model: Model
    scale: Annotated[float, number(0, 100, 0.01, "How far; 0 turns it off.", round=0.01)] = 3.0

    def run(self, ctx: Context) -> Model:
        return self.model.patched(Perturbed(self.scale)) if self.scale else self.model
