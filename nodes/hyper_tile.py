"""HyperTile: self-attention within tiles of the picture instead of all over it (tfernd 2023), so that its cost grows with the area only."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from diffusion.patch import Attend, AttentionPatch, AttnCall, Run, Site
from diffusion.values import Model
from graph_engine.node import Node
from nodes.params import CELL, number

if TYPE_CHECKING:
    from graph_engine.context import Context

LEAST = 32  # pixels a side of a tile


def tiles(side: int, least: int, choices: int, generator: torch.Generator) -> int:
    """How many tiles to cut a side into: one of the `choices` largest numbers that leave equal tiles of at least `least` cells.

    As in the widespread implementation the smallest of these numbers is never drawn, unless it is the only one.
    """
    least = min(least, side)
    numbers = [side // length for length in range(least, side + 1) if side % length == 0][:choices]
    if len(numbers) < 2:
        return numbers[0]
    return numbers[int(torch.randint(len(numbers) - 1, (1,), generator=generator))]


def cut(x: Tensor, size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """[rows, heads, h·w, d] → [rows, heads·tiles, h·w / tiles, d]: to attention, tiles are further heads."""
    rows, heads, _, d = x.shape
    (h, w), (down, across) = size, grid
    x = x.reshape(rows, heads, down, h // down, across, w // across, d).transpose(3, 4)
    return x.reshape(rows, heads * down * across, -1, d)


def join(x: Tensor, size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """`cut`, undone."""
    (h, w), (down, across) = size, grid
    rows, heads, d = x.shape[0], x.shape[1] // (down * across), x.shape[3]
    x = x.reshape(rows, heads, down, across, h // down, w // across, d).transpose(3, 4)
    return x.reshape(rows, heads, h * w, d)


@dataclass(frozen=True, slots=True)
class Tiled(AttentionPatch):
    """Self-attention down to `depth` halvings of the picture runs in tiles of about `tile` cells."""

    tile: int
    choices: int
    depth: int
    grow: bool  # tiles are larger, in cells, where the picture is smaller

    def begin(self, run: Run) -> Any:
        """Random grids of this session's own."""
        return Drawn(self)


@dataclass(slots=True, eq=False)
class Drawn(AttentionPatch):
    """The patch during one session."""

    tiled: Tiled
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    def at_site(self, site: Site) -> bool:
        """Self-attention not too deep."""
        return not site.cross and site.scale <= 2**self.tiled.depth

    def __call__(self, call: AttnCall, next: Attend) -> Tensor:
        """Attention of each tile to itself."""
        height, width = call.site.size
        if call.q.shape[2] != height * width or call.bias is not None:
            return next(call)
        least = self.tiled.tile * (call.site.scale if self.tiled.grow else 1)
        grid = (tiles(height, least, self.tiled.choices, self.generator), tiles(width, least, self.tiled.choices, self.generator))
        if grid == (1, 1):
            return next(call)
        q, k, v = (cut(x, (height, width), grid) for x in (call.q, call.k, call.v))
        return join(next(replace(call, q=q, k=k, v=v)), (height, width), grid)


# node


class HyperTile(Node, category="model_patches/unet", title="Hyper Tile", aliases=("faster", "large pictures")):
    """Let self-attention look within tiles only: faster for large pictures (tfernd 2023)."""

    model: Model
    tile_size: Annotated[int, number(1, 2048, 1, "Least side of a tile in pixels, at least 32.")] = 256
    swap_size: Annotated[int, number(1, 128, 1, "Among how many divisions to draw anew in every step, so that no seam stays.")] = 2
    max_depth: Annotated[int, number(0, 10, 1, "0: only at full size; 1: at half size, too; and so on.")] = 0
    scale_depth: Annotated[bool, Field(description="Larger tiles, in cells, at smaller sizes.")] = False

    def run(self, ctx: Context) -> Model:
        return self.model.patched(Tiled(max(LEAST, self.tile_size) // CELL, self.swap_size, self.max_depth, self.scale_depth))
