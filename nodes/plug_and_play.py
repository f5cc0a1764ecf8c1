"""Plug-and-Play (Tumanyan et al. 2023): the edit is painted over the source's own decoder features and self-attention maps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field
from torch import Tensor

from diffusion.pair import Pinned, pairs
from diffusion.patch import Attend, AttentionPatch, AttnCall, Block, BlockCall, FeaturePatch, Moment, Rows, Run, RunBlock, Site
from diffusion.values import Model, Trajectory
from graph_engine.node import Node
from nodes.params import Unit, number

if TYPE_CHECKING:
    from graph_engine.context import Context


def from_source(x: Tensor, rows: Rows) -> Tensor:
    """x [rows, ...] with the source's rows in the place of the targets'."""
    source, targets = pairs(rows)
    out = x.clone()
    out[targets] = x[source]
    return out


def within(step: Moment, share: float) -> bool:
    """Whether a step is among the first `share` of a run."""
    return 0 <= step.index < round(share * step.count)


@dataclass(frozen=True, slots=True)
class Injection(AttentionPatch, FeaturePatch):
    """f* ← f at one decoder block until τ_f, and A* ← A at the decoder's self-attention from a layer on until τ_A (alg. 1).

    A is replaced through its queries and keys. f is the residual block's whole output; the authors' code replaces what the block adds to
    its shortcut only, so that a little of the edit's own features passes through.
    """

    layer: int
    attention_from: int
    features_until: float
    attention_until: float

    def begin(self, run: Run) -> Any:
        """A state that knows block and layers by name. Raises ValueError for those that the model does not have."""
        blocks = [block.name for block in run.blocks if block.place == "up" and block.kind == "resnet"]
        layers = [site.name for site in run.sites if site.place == "up" and not site.cross]
        for name, value, there in (("layer", self.layer, blocks), ("attention_from", self.attention_from, layers)):
            if value >= len(there):
                raise ValueError(f"{name}: 0 to {len(there) - 1} is wanted by this model's decoder, {value} given")
        return _Injecting(self, blocks[self.layer], frozenset(layers[self.attention_from :]))


@dataclass(frozen=True, slots=True)
class _Injecting(AttentionPatch, FeaturePatch):
    patch: Injection
    name: str
    layers: frozenset[str]

    def at_block(self, block: Block) -> bool:
        """The one decoder block."""
        return block.name == self.name

    def block(self, call: BlockCall, next: RunBlock) -> Tensor:
        """The block's features, the targets' being the source's."""
        out = next(call)
        return from_source(out, call.rows) if within(call.step, self.patch.features_until) else out

    def at_site(self, site: Site) -> bool:
        """The decoder's self-attention from the layer on."""
        return site.name in self.layers

    def __call__(self, call: AttnCall, next: Attend) -> Tensor:
        """Self-attention by the source's queries and keys over each row's own values."""
        if not within(call.step, self.patch.attention_until):
            return next(call)
        return next(replace(call, q=from_source(call.q, call.rows), k=from_source(call.k, call.rows)))


# node


class PlugAndPlay(Node, category="editing/attention", title="Plug-and-Play Features", aliases=("pnp", "feature injection")):
    """Keep the layout of a source beside it in the batch by its decoder features and self-attention (Tumanyan et al. 2023, alg. 1)."""

    model: Annotated[Model, Field(description="Sample it on a batch of source and target (SourceAndTarget).")]
    layer: Annotated[int, number(0, 99, 1, "The decoder's residual block whose features are taken, counted from 0; the paper's is 4.")] = 4
    features_until: Annotated[Unit, Field(description="For this share of the steps; 0 takes none.")] = 0.8
    attention_from: Annotated[int, number(0, 99, 1, "The decoder's first self-attention whose map is taken, counted from 0.")] = 1
    attention_until: Annotated[Unit, Field(description="For this share of the steps; 0 takes none.")] = 0.5
    trajectory: Annotated[Trajectory | None, Field(description="A real picture's way into noise: the source keeps to it.")] = None

    def run(self, ctx: Context) -> Model:
        model = self.model if self.trajectory is None else self.model.patched(Pinned(self.trajectory))
        shares = (self.features_until, self.attention_until)
        return model.patched(Injection(self.layer, self.attention_from, *shares)) if any(shares) else model
