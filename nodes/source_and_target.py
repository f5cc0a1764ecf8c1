"""A picture and its edit side by side: two rows of one batch that start from the same noise, each with a prompt of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, NamedTuple

from pydantic import Field

from diffusion.pair import stacked
from diffusion.values import Conditioning, Latent
from graph_engine.node import Node

if TYPE_CHECKING:
    from graph_engine.context import Context


class SourceAndTarget(Node, category="editing/attention", title="Source and Target", aliases=("prompt pair", "two prompts")):
    """Two prompts for two rows of one batch, which start from the same noise: the first is the source that the second is made from.

    Put a stack of two in as the source for a further target.
    """

    samples: Annotated[Latent, Field(description="What to start from; of a batch the first one.")]
    source: Annotated[Conditioning, Field(description="What the source picture shows.")]
    target: Annotated[Conditioning, Field(description="What its edit is to show.")]

    class Out(NamedTuple):
        latent: Annotated[Latent, Field(description="The start once for each prompt, with the same noise.")]
        positive: Annotated[Conditioning, Field(description="Both prompts, for a sampler; a negative prompt serves for both.")]

    def run(self, ctx: Context) -> Out:
        positive = stacked(self.source, self.target)
        rows = max(len(entry.embeds) for entry in positive)
        noise = (self.samples.batch_index or (0,))[0]
        mask = None if self.samples.noise_mask is None else self.samples.noise_mask[:1]
        start = self.samples.x[:1].repeat(rows, 1, 1, 1)
        return self.Out(replace(self.samples, x=start, noise_mask=mask, batch_index=(noise,) * rows), positive)
