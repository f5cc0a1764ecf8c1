"""The part of a feature map that is computed anew: one window around a compact edit, or many tiles for a scattered one.

What belongs to a region is one tall picture: its n rectangles of height × width cells stacked along the height, [rows, c, n·height, width],
so that whatever acts on channels or on single cells, and whatever has one value a row, takes it as it takes a feature map.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion.sparse.convolve import convolve

Mode = Literal["auto", "window", "tile"]
TILE = 4  # cells a side of a tile's output: 6 of its input for a 3 × 3 convolution
TILE_COST = 1.6  # a cell of a tile costs about so much more than one of a window, gather and scatter included


@dataclass(frozen=True, slots=True)
class Region:
    """n rectangles on a map of `size`, which do not overlap; several may reach beyond its lower and right border."""

    size: tuple[int, int]
    height: int
    width: int
    corners: tuple[tuple[int, int], ...]  # top, left

    def __len__(self) -> int:
        return len(self.corners)

    @property
    def cells(self) -> int:
        """How many cells are computed."""
        return len(self) * self.height * self.width

    @property
    def share(self) -> float:
        """The part of the map that is computed; a little above 1 where tiles reach beyond it."""
        return self.cells / (self.size[0] * self.size[1])

    def cost(self) -> float:
        """About how much work a 3 × 3 convolution has, in cells of a window."""
        return len(self) * (self.height + 2) * (self.width + 2) * (TILE_COST if len(self) > 1 else 1)


def window(mask: Tensor) -> Region:
    """The bounding rectangle of the active cells of a mask, bool [h, w]."""
    rows, columns = (mask.any(axis).nonzero().flatten().tolist() for axis in (1, 0))
    size = (mask.shape[0], mask.shape[1])
    if not rows:
        return Region(size, 0, 0, ())
    return Region(size, rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1, ((rows[0], columns[0]),))


def tiles(mask: Tensor, tile: int = TILE) -> Region:
    """Those tiles of a regular grid that hold an active cell of a mask, bool [h, w]."""
    height, width = mask.shape
    tall, wide = min(tile, height), min(tile, width)
    padded = F.pad(mask, (0, -width % wide, 0, -height % tall))
    held = padded.view(padded.shape[0] // tall, tall, -1, wide).any(3).any(1)
    corners = tuple((i * tall, j * wide) for i, j in held.nonzero().tolist())
    if len(corners) == 1:  # alone it is a window, and ends at the border
        tall, wide = min(tall, height - corners[0][0]), min(wide, width - corners[0][1])
    return Region((height, width), tall, wide, corners)


def chosen(mask: Tensor, mode: Mode, tile: int = TILE) -> Region:
    """A window, tiles, or of the two what costs less."""
    if mode == "window":
        return window(mask)
    if mode == "tile":
        return tiles(mask, tile)
    return min(window(mask), tiles(mask, tile), key=Region.cost)


@lru_cache(maxsize=512)
def _lines(region: Region, halo: int, stride: int, before: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows [n, h'] and columns [n, w'] that the rectangles read, those beyond the border included."""
    tops, lefts = torch.tensor(region.corners, device=device).view(-1, 2).unbind(1)
    tall, wide = ((side - 1) * stride + 1 + 2 * halo for side in (region.height, region.width))
    rows = tops[:, None] * stride - before + torch.arange(tall, device=device)
    return rows, lefts[:, None] * stride - before + torch.arange(wide, device=device)


@lru_cache(maxsize=512)
def inside(region: Region, halo: int, device: torch.device) -> Tensor | None:
    """1 where the rectangles with a halo are on the map, bool [n·h', w']; None where they are everywhere."""
    rows, columns = _lines(region, halo, 1, halo, device)
    on = ((rows >= 0) & (rows < region.size[0]))[:, :, None] & ((columns >= 0) & (columns < region.size[1]))[:, None, :]
    return None if bool(on.all()) else on.flatten(0, 1)


@lru_cache(maxsize=512)
def places(region: Region, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Where the cells of the tall picture that are on the map lie there, row by row, and which cells those are (None: all)."""
    rows, columns = _lines(region, 0, 1, 0, device)
    index = (rows[:, :, None] * region.size[1] + columns[:, None, :]).flatten()
    on = inside(region, 0, device)
    if on is None:
        return index, None
    kept = on.flatten().nonzero().flatten()
    return index[kept], kept


def gather(
    x: Tensor, region: Region, halo: int = 0, *, stride: int = 1, before: int | None = None, enlarged: tuple[int, int] | None = None
) -> Tensor:
    """The cells that the region's rectangles with a halo see of x [rows, c, h, w], tall; zeros beyond the border.

    For a convolution of `stride` the region lies on its output and `before` cells are seen before the first one (default: the halo). With
    `enlarged` the map is seen as its nearest neighbours' enlargement to that size, which is never made.
    """
    before = halo if before is None else before
    height, width = x.shape[2:]
    if len(region) == 1 and enlarged is None:
        (top, left), tall, wide = region.corners[0], region.height, region.width
        top, left = top * stride - before, left * stride - before
        bottom, right = top + (tall - 1) * stride + 1 + 2 * halo, left + (wide - 1) * stride + 1 + 2 * halo
        beyond = (max(0, -left), max(0, right - width), max(0, -top), max(0, bottom - height))
        crop = x[:, :, max(0, top) : min(height, bottom), max(0, left) : min(width, right)]
        return F.pad(crop, beyond) if any(beyond) else crop
    rows, columns = _lines(region, halo, stride, before, x.device)
    full = enlarged or (height, width)
    on = ((rows >= 0) & (rows < full[0]))[:, :, None] & ((columns >= 0) & (columns < full[1]))[:, None, :]
    rows = rows.clamp(0, full[0] - 1) * height // full[0]
    columns = columns.clamp(0, full[1] - 1) * width // full[1]
    seen = x[:, :, rows[:, :, None], columns[:, None, :]] * on.to(x.dtype)  # (rows, c, n, h', w')
    return seen.flatten(2, 3)


def scatter(full: Tensor, region: Region, tall: Tensor) -> Tensor:
    """The map with the region's cells, a tall picture, written into it in place."""
    if len(region) == 1:
        (top, left), (height, width) = region.corners[0], (region.height, region.width)
        full[:, :, top : top + height, left : left + width] = tall
        return full
    index, on = places(region, full.device)
    cells = tall.flatten(2)
    full.view(*full.shape[:2], -1).index_copy_(2, index, (cells if on is None else cells[:, :, on]).to(full.dtype))
    return full


def convolved(conv: nn.Conv2d, tall: Tensor, region: Region) -> Tensor:
    """A convolution without padding of each rectangle with its halo; the tall picture of its output."""
    n = len(region)
    if n > 1:
        rows, c, _, wide = tall.shape
        tall = tall.view(rows, c, n, -1, wide).transpose(1, 2).flatten(0, 1)
    out = convolve(conv, tall, (0, 0))
    if n == 1:
        return out
    return out.unflatten(0, (-1, n)).transpose(1, 2).flatten(2, 3)
