"""What control networks are shown, computed once for all training scenes: edges of three kinds, and coarse colours."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from toybox.draw import SIDE, render
from toybox.scenes import sample
from toybox.views import coarse_colors, edges

KINDS = ("edges", "thin edges", "outlines")
SHARES = (0.5, 0.3, 0.2)  # of the samples
BITS = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8)


def thin_edges(images: Tensor) -> Tensor:
    """Lines of about one pixel, (n, h, w), where the colours of pictures (n, h, w, 3) change most steeply along x or y.

    What is left of `edges` after Canny's suppression of all that is no maximum (Canny 1986), along the two axes only.
    """
    x = F.pad(images.permute(0, 3, 1, 2).flatten(0, 1)[:, None], (1, 1, 1, 1), mode="replicate")
    sobel = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]]) / 4
    slopes = F.conv2d(x, torch.stack((sobel, sobel.T))[:, None]).unflatten(0, (len(images), 3)).abs().amax(1)  # (n, 2, h, w)
    steep = slopes.square().sum(1).sqrt() > 0.12
    along_x, along_y = slopes.unbind(1)
    top_x = (along_x >= along_y) & (along_x > _shifted(along_x, 1, 2)) & (along_x >= _shifted(along_x, -1, 2))
    top_y = (along_y > along_x) & (along_y > _shifted(along_y, 1, 1)) & (along_y >= _shifted(along_y, -1, 1))
    return (steep & (top_x | top_y)).float()


def _shifted(x: Tensor, by: int, axis: int) -> Tensor:
    out = x.roll(by, axis)
    out.narrow(axis, 0 if by > 0 else x.shape[axis] - 1, 1).zero_()
    return out


def outlines(masks: Tensor) -> Tensor:
    """Borders of objects alone, (n, h, w), from their coverage (n, 2, h, w)."""
    return edges(masks.amax(1)[..., None].expand(-1, -1, -1, 3))[..., 0]


def of_scenes(first: int, count: int) -> dict[str, Tensor]:
    """Bits of all kinds of edges (n, kinds, 128, 16) and colours (n, 8, 8, 3), bytes, of the scenes with seeds first, first + 1, ..."""
    bits, colors = [], []
    for start in range(first, first + count, 100):
        images, masks = render([sample(seed) for seed in range(start, min(start + 100, first + count))])
        lines = torch.stack((edges(images)[..., 0], thin_edges(images), outlines(masks)), 1)
        bits.append((lines.to(torch.uint8).unflatten(-1, (-1, 8)) * BITS).sum(-1, dtype=torch.uint8))
        colors.append((coarse_colors(images) * 255).round().byte())
    return {"edges": torch.cat(bits), "colors": torch.cat(colors)}


def coverage(count: int) -> Tensor:
    """How much of each of 64x64 cells objects cover, (count, 64, 64) in 0..1, in the scenes with seeds 0, 1, ..."""
    found = []
    for start in range(0, count, 100):
        _, masks = render([sample(seed) for seed in range(start, min(start + 100, count))])
        found.append(F.avg_pool2d(masks.amax(1), SIDE // 64))
    return torch.cat(found)


def edges_of(bits: Tensor) -> Tensor:
    """White lines on black, (n, 3, 128, 128), from their bits (n, 128, 16)."""
    lines = ((bits[..., None] & BITS) > 0).flatten(-2).float()
    return lines[:, None].expand(-1, 3, -1, -1)


def colors_of(coarse: Tensor) -> Tensor:
    """Pictures of even squares, (n, 3, 128, 128), from coarse colours (n, 8, 8, 3), bytes or floats in 0..1."""
    scaled = coarse.float() / 255 if coarse.dtype == torch.uint8 else coarse
    return F.interpolate(scaled.permute(0, 3, 1, 2), (SIDE, SIDE), mode="nearest")


def cached(path: Path, count: int) -> dict[str, Tensor]:
    """The hints of the first `count` scenes, from a file that is made where it is missing or of another number."""
    if path.exists():
        found: dict[str, Tensor] = load_file(path)
        if len(found["edges"]) == count:
            return found
    made = of_scenes(0, count)
    save_file(made, path)
    return made
