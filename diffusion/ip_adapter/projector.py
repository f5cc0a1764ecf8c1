"""From a picture's CLIP embedding to tokens beside those of the text; modules have the names that the authors' files have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEAD = 64  # width of an attention head in resamplers; files do not tell
Shapes = Mapping[str, tuple[int, ...]]


class Linear(nn.Module):
    """A picture's embedding [b, d] as a few tokens [b, n, width]: one linear map and a norm (Ye et al. 2023, sec. 3.2.1)."""

    def __init__(self, reads: int, tokens: int, width: int) -> None:
        super().__init__()
        self.proj, self.norm = nn.Linear(reads, tokens * width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.norm(self.proj(x).unflatten(-1, (-1, *self.norm.normalized_shape))))


class EachToken(nn.Module):
    """All states of a picture [b, n, d] as tokens [b, n, width], each by itself ("full face")."""

    def __init__(self, reads: int, inner: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(nn.Linear(reads, inner), nn.GELU(), nn.Linear(inner, width), nn.LayerNorm(width))

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.proj(x))


class Look(nn.Module):
    """Attention of a few queries to the picture's states and to themselves (Alayrac et al. 2022, "Flamingo", the perceiver resampler)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.heads = inner // HEAD
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_q, self.to_kv = nn.Linear(width, inner, bias=False), nn.Linear(width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor, queries: Tensor) -> Tensor:
        seen, queries = self.norm1(x), self.norm2(queries)
        k, v = self.to_kv(torch.cat([seen, queries], dim=1)).chunk(2, dim=-1)
        q, k, v = (each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in (self.to_q(queries), k, v))
        return cast("Tensor", self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)))


class Resampler(nn.Module):
    """The states of a picture [b, n, d] as tokens [b, queries, width]: learned queries that look at them layer by layer ("plus")."""

    def __init__(self, reads: int, queries: int, hidden: int, inner: int, wide: int, layers: int, width: int) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.empty(1, queries, hidden))
        self.proj_in, self.proj_out, self.norm_out = nn.Linear(reads, hidden), nn.Linear(hidden, width), nn.LayerNorm(width)

        def feed_forward() -> nn.Sequential:
            return nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, wide, bias=False), nn.GELU(), nn.Linear(wide, hidden, bias=False))

        self.layers = nn.ModuleList(nn.ModuleList([Look(hidden, inner), feed_forward()]) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        queries, x = self.latents.expand(len(x), -1, -1), self.proj_in(x)
        for layer in self.layers:
            look, feed_forward = cast("nn.ModuleList", layer)
            queries = queries + look(x, queries)
            queries = queries + feed_forward(queries)
        return cast("Tensor", self.norm_out(self.proj_out(queries)))


def kind_of(shapes: Shapes) -> str:
    """What a projector with weights of these shapes is: plain, plus or full. ValueError, saying what it is, for anything else."""
    if any(name.startswith("perceiver_resampler.") for name in shapes) or {"norm.weight", "proj.0.weight"} <= shapes.keys():
        raise ValueError("this is a FaceID IP-Adapter, which reads faces with InsightFace; that is not supported, use a plain or plus one")
    for mark, kind in (("proj.weight", "plain"), ("proj.3.weight", "full"), ("latents", "plus")):
        if mark in shapes:
            return kind
    raise ValueError(f"its projector is of no known kind ({', '.join(list(shapes)[:5]) or 'it has no weights'})")


def build(shapes: Shapes) -> tuple[nn.Module, int, int]:
    """The projector that weights of these shapes belong to, the width that it reads, and that of its tokens.

    Raises ValueError for a kind that is not known, KeyError where a weight that tells the size is missing.
    """
    kind = kind_of(shapes)
    if kind == "plain":
        (out, reads), (width,) = shapes["proj.weight"], shapes["norm.weight"]
        return Linear(reads, out // width, width), reads, width
    if kind == "full":
        (inner, reads), (width,) = shapes["proj.0.weight"], shapes["proj.3.weight"]
        return EachToken(reads, inner, width), reads, width
    layers = 1 + max((int(m[1]) for m in (re.match(r"layers\.(\d+)\.", name) for name in shapes) if m), default=-1)
    _, queries, hidden = shapes["latents"]
    reads, width = shapes["proj_in.weight"][1], shapes["proj_out.weight"][0]
    inner, wide = shapes["layers.0.0.to_q.weight"][0], shapes["layers.0.1.1.weight"][0]
    return Resampler(reads, queries, hidden, inner, wide, layers, width), reads, width
