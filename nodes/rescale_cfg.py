"""Guidance whose result keeps the spread of the conditional prediction (Lin et al. 2024, sec. 3.4)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from torch import Tensor

from diffusion.guidance import GuidanceRule, ruled
from diffusion.patch import Combine, GuideCall
from diffusion.values import Model
from graph_engine.node import Node
from nodes.params import Unit

if TYPE_CHECKING:
    from graph_engine.context import Context


def rescaled(guided: Tensor, positive: Tensor, share: float) -> Tensor:
    """v_cfg·σ_pos/σ_cfg mixed with v_cfg by `share`; standard deviations over each picture (Lin et al. 2024, alg. 2)."""
    over = (1, 2, 3)
    factor = positive.std(over, keepdim=True) / guided.std(over, keepdim=True)
    return share * (guided * factor) + (1 - share) * guided


@dataclass(frozen=True, slots=True, eq=False)
class Rescale(GuidanceRule):
    """Rescales in v, whatever the model predicts: its spread is the same at all levels."""

    share: float

    def combine(self, call: GuideCall, next: Combine) -> Tensor:
        """D of the rescaled v."""
        sigma = call.step.sigma
        root = math.sqrt(sigma**2 + 1)
        x = call.x / (sigma**2 + 1)

        def v(d: Tensor) -> Tensor:
            return (x - d) * (root / sigma)

        return x - rescaled(v(next(call)), v(call.preds["positive"]), self.share) * (sigma / root)


# node


class RescaleCFG(Node, category="advanced/model", title="Rescale CFG", aliases=("guidance rescale", "overexposed")):
    """Bring the spread of the guided prediction back to that of the conditional one, against too strong colours (Lin et al. 2024)."""

    model: Model
    multiplier: Annotated[Unit, Field(description="1: all of it; 0: plain guidance.")] = 0.7

    def run(self, ctx: Context) -> Model:
        return ruled(self.model, Rescale(self.multiplier))
