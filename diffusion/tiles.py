"""Run a network over a picture in overlapping tiles, so that its memory does not grow with the picture."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

LEAST_OVERLAPS = 4  # a tile is at least so many overlaps wide, or it would be nothing but seams


def starts(size: int, tile: int, overlap: int) -> list[int]:
    """Where tiles of one side start: every tile − overlap, as long as more than an overlap is left; one where a tile holds all."""
    return [0] if size <= tile else list(range(0, size - overlap, tile - overlap))


def feather(length: int, over: int, like: Tensor) -> Tensor:
    """Weights of one side of a tile's output, [length]: (i + 1) / over from both ends; all 1 where the tile is no wider than that."""
    weight = torch.ones(length, dtype=like.dtype, device=like.device)
    if over < length:
        for i in range(over):
            weight[i] *= (i + 1) / over
            weight[length - 1 - i] *= (i + 1) / over
    return weight


def tiled(x: Tensor, run: Callable[[Tensor], Tensor], tile: tuple[int, int], overlap: int, scale: float) -> Tensor:
    """What `run` makes of x [b, c, h, w], which it enlarges by `scale`, from tiles of `tile` (height, width) that overlap.

    Tiles are averaged by weights that fade linearly over the overlap. A picture that fits into one tile goes through whole. `overlap` is
    in cells of x and has to be less than the tile; raises ValueError where it is not.
    """
    if overlap >= min(tile):
        raise ValueError(f"overlap: less than the tile's {min(tile)} is wanted, {overlap} given")
    return torch.cat([_one(x[i : i + 1], run, tile, overlap, scale) for i in range(len(x))])


def _one(x: Tensor, run: Callable[[Tensor], Tensor], tile: tuple[int, int], overlap: int, scale: float) -> Tensor:
    size = (x.shape[2], x.shape[3])
    if size[0] <= tile[0] and size[1] <= tile[1]:
        return run(x)
    total = count = None
    fade = round(overlap * scale)
    for top, left in itertools.product(*(starts(side, t, overlap) for side, t in zip(size, tile, strict=True))):
        out = run(x[:, :, top : top + tile[0], left : left + tile[1]])
        if total is None or count is None:
            whole = (round(size[0] * scale), round(size[1] * scale))
            total, count = out.new_zeros(1, out.shape[1], *whole), out.new_zeros(1, 1, *whole)
        weight = feather(out.shape[2], fade, out)[:, None] * feather(out.shape[3], fade, out)
        y, x0 = round(top * scale), round(left * scale)
        total[:, :, y : y + out.shape[2], x0 : x0 + out.shape[3]] += out * weight
        count[:, :, y : y + out.shape[2], x0 : x0 + out.shape[3]] += weight
    assert total is not None
    assert count is not None
    return total / count


def thrice(x: Tensor, run: Callable[[Tensor], Tensor], tile: int, overlap: int, scale: float) -> Tensor:
    """The mean of three tilings, with square, flat and tall tiles: their seams lie in different places."""
    shapes = ((tile * 2, tile // 2), (tile // 2, tile * 2), (tile, tile))
    parts = [tiled(x, run, shape, overlap, scale) for shape in shapes]
    return (parts[0] + parts[1] + parts[2]) / 3.0
