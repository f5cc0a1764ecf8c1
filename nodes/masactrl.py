"""MasaCtrl (Cao et al. 2023): the edit takes what things look like from the source, by looking at its keys and values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from diffusion.pair import Pinned, pairs
from diffusion.patch import Attend, AttentionPatch, AttnCall, Run, Site
from diffusion.values import Mask, Model, Trajectory
from graph_engine.errors import NodeError
from graph_engine.node import Node
from nodes.params import StepNumber, number

if TYPE_CHECKING:
    from graph_engine.context import Context


def same_side(source: Tensor, target: Tensor, size: tuple[int, int]) -> Tensor | None:
    """A bias [queries, keys] that lets queries inside the target mask [1, h, w] see keys inside the source's, those outside those outside.

    None where one of the sides has no keys to look at (sec. 3.3, eq. 6 with hard masks).
    """
    keys, queries = (F.adaptive_avg_pool2d(mask[:, None].float(), size).flatten() >= 0.5 for mask in (source, target))
    if keys.all() or not keys.any():
        return None
    return torch.zeros(len(queries), len(keys), device=keys.device).masked_fill(queries[:, None] != keys[None], -torch.inf)


@dataclass(frozen=True, slots=True, eq=False)
class Mutual(AttentionPatch):
    """From a step and a self-attention layer on, targets attend to the source's keys and values (sec. 3.2, eq. 3)."""

    step: int
    layer: int
    source_mask: Tensor | None = None  # [1, h, w]
    target_mask: Tensor | None = None

    def begin(self, run: Run) -> Any:
        """A state that knows the layers by name. Raises ValueError for a layer that the model does not have."""
        layers = [site.name for site in run.sites if not site.cross]
        if not -len(layers) <= self.layer < len(layers):
            raise ValueError(f"layer: {-len(layers)} to {len(layers) - 1} is wanted by this model, {self.layer} given")
        return _From(self, frozenset(layers[self.layer % len(layers) :]))


@dataclass(frozen=True, slots=True, eq=False)
class _From(AttentionPatch):
    patch: Mutual
    layers: frozenset[str]

    def at_site(self, site: Site) -> bool:
        """Self-attention from the layer on."""
        return site.name in self.layers

    def __call__(self, call: AttnCall, next: Attend) -> Tensor:
        """Attention in which the targets look at the source."""
        if call.step.index < self.patch.step:
            return next(call)
        source, targets = pairs(call.rows)
        k, v = call.k.clone(), call.v.clone()
        k[targets], v[targets] = call.k[source], call.v[source]
        shared = replace(call, k=k, v=v)
        if self.patch.source_mask is None or self.patch.target_mask is None:
            return next(shared)
        if not call.site.whole:
            raise NodeError("mask: with one, prompts for the whole picture are wanted, and these hold in an area")
        bias = same_side(self.patch.source_mask.to(k.device), self.patch.target_mask.to(k.device), call.site.size)
        if bias is None:
            return next(shared)
        rows = bias.new_zeros(len(k), 1, *bias.shape)
        rows[targets] = bias
        return next(shared.add_bias(rows))


# node


class MasaCtrl(Node, category="editing/attention", title="MasaCtrl", aliases=("mutual self-attention", "consistency")):
    """Let pictures take their looks from a source beside them in the batch, and their layout from their own prompt (Cao et al. 2023)."""

    model: Annotated[Model, Field(description="Sample it on a batch of source and target (SourceAndTarget).")]
    step: Annotated[StepNumber, Field(description="From which step on; a high one changes nothing. The layout forms before it.")] = 4
    layer: Annotated[
        int,
        number(-100, 99, 1, "From which self-attention on; −6, counted from the end, is layer 10 of Stable Diffusion's 16."),
    ] = -6
    mask: Annotated[Mask | None, Field(description="The object in the source: object then looks at object, ground at ground.")] = None
    target_mask: Annotated[Mask | None, Field(description="Where the object is in the target; else as in the source.")] = None
    trajectory: Annotated[Trajectory | None, Field(description="A real picture's way into noise: the source keeps to it.")] = None

    def run(self, ctx: Context) -> Model:
        masks = [None if mask is None else mask.values for mask in (self.mask, self.target_mask or self.mask)]
        if self.mask is None and self.target_mask is not None:
            raise NodeError("mask: the object in the source is wanted, too, where target_mask is given")
        if any(mask is not None and len(mask) != 1 for mask in masks):
            raise NodeError("mask: one mask is wanted, a batch given")
        model = self.model if self.trajectory is None else self.model.patched(Pinned(self.trajectory))
        return model.patched(Mutual(self.step, self.layer, *masks))
