"""Noise levels by hand: typed in, made finer in places, looked up."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import torch
from pydantic import Field

from diffusion.spacing import extend
from diffusion.values import Model, Sigmas
from graph_engine.node import Node
from nodes.params import number

if TYPE_CHECKING:
    from graph_engine.context import Context


class ManualSigmas(Node, category="sampling/custom_sampling/schedulers", title="Manual Sigmas", aliases=("custom noise schedule",)):
    """The levels that are typed in."""

    sigmas: Annotated[str, Field(description="Levels, noisiest first, with commas or blanks between them.")] = "1, 0.5"

    def run(self, ctx: Context) -> Sigmas:
        return Sigmas(torch.tensor([_level(word) for word in re.split(r"[\s,;]+", self.sigmas.strip(" \n\t,;[]()")) if word]))


def _level(word: str) -> float:
    try:
        level = float(word)
    except ValueError:
        level = math.nan
    if not (level >= 0 and math.isfinite(level)):
        raise ValueError(f"sigmas: numbers of 0 or more are wanted, {word!r} given")
    return level


class ExtendIntermediateSigmas(
    Node, category="sampling/custom_sampling/sigmas", title="Extend Intermediate Sigmas", aliases=("interpolate sigmas",)
):
    """More levels between those of a range."""

    sigmas: Sigmas
    steps: Annotated[int, number(1, 100, 1, "Into how many steps each one becomes.")] = 2
    start_at_sigma: Annotated[float, number(-1, 20000, 0.01, "The noisiest level to do it at; -1 for any.", round=False)] = -1.0
    end_at_sigma: Annotated[float, number(0, 20000, 0.01, "The cleanest level to do it at.", round=False)] = 12.0
    spacing: Annotated[
        Literal["linear", "cosine", "sine"],
        Field(description="linear: even; cosine: closer at the clean end; sine: closer at the noisy end."),
    ] = "linear"

    def run(self, ctx: Context) -> Sigmas:
        high = math.inf if self.start_at_sigma < 0 else self.start_at_sigma
        return Sigmas(extend(self.sigmas.values, self.steps, high, self.end_at_sigma, self.spacing))


class SamplingPercentToSigma(Node, category="sampling/custom_sampling/sigmas", title="Sampling Percent to Sigma"):
    """The level that a model is at after a share of the way."""

    model: Model
    sampling_percent: Annotated[float, number(0, 1, 0.0001, "The share of the way: 0 the noisiest level, 1 the cleanest.")] = 0.0
    return_actual_sigma: Annotated[
        bool, Field(description="At 0 and 1 the model's own ends, not the bounds that ranges are compared with (999999999.9 and 0).")
    ] = False

    class Out(NamedTuple):
        sigma_value: float

    def run(self, ctx: Context) -> Out:
        table = self.model.process.table()
        if self.return_actual_sigma and self.sampling_percent in (0, 1):
            return self.Out(table.sigma_min if self.sampling_percent else table.sigma_max)
        return self.Out(table.percent_to_sigma(self.sampling_percent))
