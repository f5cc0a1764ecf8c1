"""Edits of the toybox world in words, with the true result of each: what InstructPix2Pix is trained on and judged by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import torch
from pydantic import Field

from diffusion.values import Image, Mask
from graph_engine.node import Node
from nodes.params import Seed, number
from toybox.instructions import SHARES, edit
from toybox.scenes import render

if TYPE_CHECKING:
    from graph_engine.context import Context

    Attribute = str  # a checker cannot follow choices that are computed
else:
    Attribute = Literal["any", *SHARES]

AT_ONCE = 64  # scenes are drawn at four times their size


class ToyboxEditPairs(Node, category="toybox", title="Toybox Edit Pairs", aliases=("instruct pix2pix", "counterfactual", "dataset")):
    """Draw scenes before and after an edit that one thing changes, with the words that ask for it; the same seed gives the same pairs."""

    seed: Annotated[Seed, Field(description="Of the first pair; the shipped variant learned from 0 to 7999.")] = 100_000
    count: Annotated[int, number(1, 4096, 1, "How many pairs.")] = 16
    attribute: Annotated[Attribute, Field(description="What is changed; any: by the seed.")] = "any"
    objects: Annotated[Literal["any", "one", "two"], Field(description="In each scene; any: by the seed.")] = "any"

    class Out(NamedTuple):
        before: Image
        after: Annotated[Image, Field(description="What a perfect edit gives.")]
        instructions: Annotated[str, Field(description="One line for each pair.")]
        mask: Annotated[Mask, Field(description="Where the two differ.")]

    def run(self, ctx: Context) -> Out:
        which = None if self.attribute == "any" else self.attribute
        number_of = {"any": None, "one": 1, "two": 2}[self.objects]
        edits = [edit(self.seed + i, which, number_of) for i in range(self.count)]
        drawn = []
        for start in range(0, 2 * self.count, AT_ONCE):
            scenes = [*(each.before for each in edits), *(each.after for each in edits)][start : start + AT_ONCE]
            drawn.append(render(scenes)[0])
            ctx.step(min(start + AT_ONCE, 2 * self.count), 2 * self.count)
        before, after = torch.cat(drawn).chunk(2)
        mask = (before != after).any(-1).float()
        return self.Out(Image(before), Image(after), "\n".join(each.text for each in edits), Mask(mask))
