"""Token merging (Bolya & Hoffman 2023): places that look alike ask the self-attention one question together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from diffusion.patch import Attend, AttentionPatch, AttnCall, Run, Site
from diffusion.values import Model
from graph_engine.node import Node
from nodes.params import Unit

if TYPE_CHECKING:
    from graph_engine.context import Context

STRIDE = 2  # one destination in every 2 × 2 places
Map = Callable[[Tensor], Tensor]


def matching(tokens: Tensor, height: int, width: int, count: int, generator: torch.Generator) -> tuple[Map, Map]:
    """Merge the `count` tokens [b, n, d] most like a destination into it, and how to give each its own again (sec. 3 and 4.1).

    One place of every 2 × 2, drawn at random, is a destination. Both maps act on [b, n, any].
    """
    b, n, _ = tokens.shape
    rows, columns = height // STRIDE, width // STRIDE
    drawn = torch.randint(STRIDE * STRIDE, (rows, columns), generator=generator)
    y = torch.arange(rows)[:, None] * STRIDE + drawn // STRIDE
    x = torch.arange(columns) * STRIDE + drawn % STRIDE
    is_destination = torch.zeros(n, dtype=torch.bool)
    is_destination[(y * width + x).flatten()] = True
    to, frm = is_destination.nonzero()[:, 0].to(tokens.device), (~is_destination).nonzero()[:, 0].to(tokens.device)
    count = min(count, len(frm))
    unit = tokens / tokens.norm(dim=-1, keepdim=True)
    best, partner = (unit[:, frm] @ unit[:, to].mT).max(-1)  # (b, sources)
    order = best.argsort(-1, descending=True)
    merged, kept = order[:, :count], order[:, count:]
    into = partner.gather(1, merged)

    def pick(x: Tensor, index: Tensor) -> Tensor:
        return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))

    def merge(x: Tensor) -> Tensor:
        sources, destinations = x[:, frm], x[:, to]
        index = into[..., None].expand(-1, -1, x.shape[-1])
        return torch.cat([pick(sources, kept), destinations.scatter_reduce(1, index, pick(sources, merged), "mean")], 1)

    def unmerge(x: Tensor) -> Tensor:
        own, destinations = x[:, : kept.shape[1]], x[:, kept.shape[1] :]
        out = x.new_empty(b, n, x.shape[-1])
        out[:, to] = destinations
        for index, values in ((kept, own), (merged, pick(destinations, into))):
            out.scatter_(1, frm[index][..., None].expand(-1, -1, x.shape[-1]), values)
        return out

    return merge, unmerge


@dataclass(frozen=True, slots=True)
class Merging(AttentionPatch):
    """In self-attention at the latent's own size, the share `ratio` of all queries is merged; keys and values stay."""

    ratio: float

    def begin(self, run: Run) -> Any:
        """Random places of this session's own."""
        return Drawn(self)


@dataclass(slots=True, eq=False)
class Drawn(AttentionPatch):
    """The patch during one session."""

    merging: Merging
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    def at_site(self, site: Site) -> bool:
        """Self-attention at the latent's own size."""
        return site.scale == 1 and not site.cross

    def __call__(self, call: AttnCall, next: Attend) -> Tensor:
        """Attention of fewer queries."""
        heads, n, d = call.q.shape[1:]
        height, width = call.site.size
        count = int(n * self.merging.ratio)
        if n != height * width or count == 0 or min(height, width) < STRIDE:
            return next(call)
        merge, unmerge = matching(call.hidden, height, width, count, self.generator)
        q = (
            merge(call.q.transpose(1, 2).flatten(2)).unflatten(2, (heads, d)).transpose(1, 2)
        )  # projecting is linear: merged before or after
        out = next(replace(call, q=q, hidden=merge(call.hidden)))
        return unmerge(out.transpose(1, 2).flatten(2)).unflatten(2, (heads, -1)).transpose(1, 2)


# node


class TomePatchModel(Node, category="model_patches/unet", title="Token Merging (ToMe)", aliases=("tome", "faster")):
    """Merge alike places in self-attention at full size: faster for large pictures, a little less detail (Bolya & Hoffman 2023)."""

    model: Model
    ratio: Annotated[Unit, Field(description="The share of places that is merged; at most three quarters can be.")] = 0.3

    def run(self, ctx: Context) -> Model:
        return self.model.patched(Merging(self.ratio))
