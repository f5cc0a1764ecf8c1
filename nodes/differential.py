"""Differential diffusion (Levin & Fried 2023): how grey a mask is says from which level on a place may change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from torch import Tensor

from diffusion.sample import MaskRule
from diffusion.schedule import Schedule
from diffusion.values import Model
from graph_engine.node import Node
from nodes.params import number

if TYPE_CHECKING:
    from graph_engine.context import Context


@dataclass(frozen=True, slots=True)
class Differential(MaskRule):
    """At each level 1 where the mask is at least as bright as the level is high, from 1 at the first to 0 at the last (alg. 1)."""

    strength: float = 1.0

    def mask_at(self, mask: Tensor, sigma: float, schedule: Schedule) -> Tensor:
        """The mask [b, 1, h, w] at a level; below strength 1 mixed with the grey one."""
        table = schedule.table
        first, last = (table.told(s) for s in (schedule.sigmas[0], max(schedule.sigmas[-1], table.sigma_min)))
        threshold = (table.told(sigma) - last) / (first - last) if first != last else 0.0
        hard = (mask >= threshold).to(mask)
        return hard if self.strength in (0, 1) else self.strength * hard + (1 - self.strength) * mask


# node


class DifferentialDiffusion(Node, category="advanced/model", title="Differential Diffusion", aliases=("inpaint", "soft mask", "gradient")):
    """Where the noise mask is grey, change begins later: a soft mask says how much each place changes (Levin & Fried 2023)."""

    model: Model
    strength: Annotated[float, number(0, 1, 0.01, "Below 1 mixed with a mask that is grey throughout; 0 counts as 1.")] = 1.0

    def run(self, ctx: Context) -> Model:
        return self.model.patched(Differential(self.strength))
