"""Negative-prompt inversion (Miyake et al. 2023): the source prompt stands in for the empty one, and guidance cancels out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, NamedTuple

from pydantic import Field

from diffusion.trajectory import only_entry
from diffusion.values import Conditioning, Trajectory
from graph_engine.node import Node

if TYPE_CHECKING:
    from graph_engine.context import Context


class NegativePromptInversion(
    Node, category="editing/inversion", title="Negative-Prompt Inversion", aliases=("npi", "null-text without optimisation")
):
    """Use the source prompt as the empty one at every step, where null-text inversion would optimise (Miyake et al. 2023, sec. 3).

    With ∅ := C the guided estimate of the source is that without guidance, whatever the scale: replaying the source prompt is the plain
    DDIM reconstruction, and another prompt is guided away from the source.
    """

    trajectory: Annotated[Trajectory, Field(description="From DDIM Inversion without guidance, under the same prompt.")]
    positive: Annotated[Conditioning, Field(description="What the picture shows: the prompt of the inversion.")]

    class Out(NamedTuple):
        trajectory: Annotated[Trajectory, Field(description="With that prompt as its empty one of every step.")]
        negative: Annotated[Conditioning, Field(description="The same for any sampler.")]

    def run(self, ctx: Context) -> Out:
        entry = only_entry(self.positive, "positive")
        uncond = entry.embeds.expand(self.trajectory.steps, *entry.embeds.shape)
        return self.Out(replace(self.trajectory, uncond=uncond, pooled=entry.pooled), self.positive)
