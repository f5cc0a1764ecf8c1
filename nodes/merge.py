"""Models and text encoders blended weight by weight. Nothing is computed before a model is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeVar

from diffusion.values import Clip, Model
from diffusion.weights import Blend
from graph_engine.node import Node
from nodes.params import number

if TYPE_CHECKING:
    from graph_engine.context import Context

Ratio = Annotated[float, number(0, 1, 0.01, "The share of the first; the rest is the second's.")]
Multiplier = Annotated[float, number(-10, 10, 0.01, "Multiplies the difference.")]
# embedding tables' indices and CLIP's temperature are not weights
SKIP = (".position_ids", ".logit_scale")
# the blocks by how the names of their parameters begin; the rest (timestep and label embeddings) goes with the input
MIDDLE = ("mid_block.",)
OUT = ("up_blocks.", "conv_norm_out.", "conv_out.")

Network = TypeVar("Network", Model, Clip)


class ModelMergeSimple(Node, category="advanced/model_merging", title="Merge Models"):
    """model1·ratio + model2·(1 − ratio) for all weights; everything but weights is model1's."""

    model1: Model
    model2: Model
    ratio: Ratio = 1.0

    def run(self, ctx: Context) -> Model:
        return _blend(self.model1, self.model2, ("", self.ratio, 1.0 - self.ratio))


class ModelMergeBlocks(Node, category="advanced/model_merging", title="Merge Models by Blocks"):
    """model1·ratio + model2·(1 − ratio), with a ratio each for the input blocks, the middle and the output blocks."""

    model1: Model
    model2: Model
    input: Ratio = 1.0
    middle: Ratio = 1.0
    out: Ratio = 1.0

    def run(self, ctx: Context) -> Model:
        ratios = (("", self.input), *((name, self.middle) for name in MIDDLE), *((name, self.out) for name in OUT))
        return _blend(self.model1, self.model2, *((name, ratio, 1.0 - ratio) for name, ratio in ratios))


class ModelMergeAdd(Node, category="advanced/model_merging", title="Add Models"):
    """model1 + model2, as for a difference that ModelMergeSubtract made."""

    model1: Model
    model2: Model

    def run(self, ctx: Context) -> Model:
        return _blend(self.model1, self.model2, ("", 1.0, 1.0))


class ModelMergeSubtract(Node, category="advanced/model_merging", title="Subtract Models"):
    """(model1 − model2)·multiplier: what the one has learned beyond the other."""

    model1: Model
    model2: Model
    multiplier: Multiplier = 1.0

    def run(self, ctx: Context) -> Model:
        return _blend(self.model1, self.model2, ("", self.multiplier, -self.multiplier))


class CLIPMergeSimple(Node, category="advanced/model_merging", title="Merge Text Encoders"):
    """clip1·ratio + clip2·(1 − ratio) for all weights of text encoders."""

    clip1: Clip
    clip2: Clip
    ratio: Ratio = 1.0

    def run(self, ctx: Context) -> Clip:
        return _blend(self.clip1, self.clip2, ("", self.ratio, 1.0 - self.ratio))


class CLIPMergeAdd(Node, category="advanced/model_merging", title="Add Text Encoders"):
    """clip1 + clip2, as for a difference that CLIPMergeSubtract made."""

    clip1: Clip
    clip2: Clip

    def run(self, ctx: Context) -> Clip:
        return _blend(self.clip1, self.clip2, ("", 1.0, 1.0))


class CLIPMergeSubtract(Node, category="advanced/model_merging", title="Subtract Text Encoders"):
    """(clip1 − clip2)·multiplier: what the one has learned beyond the other."""

    clip1: Clip
    clip2: Clip
    multiplier: Multiplier = 1.0

    def run(self, ctx: Context) -> Clip:
        return _blend(self.clip1, self.clip2, ("", self.multiplier, -self.multiplier))


def _blend(first: Network, second: Network, *factors: tuple[str, float, float]) -> Network:
    return first.patched(Blend(second.weights, second.patches, factors, SKIP))
