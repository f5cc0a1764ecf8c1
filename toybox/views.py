"""Other views of a scene, for control and for harmonization: edges, segments, coarse colours, strokes, a bad composite."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from toybox.draw import SIDE, render
from toybox.shapes import DISTANCES

if TYPE_CHECKING:
    from toybox.scenes import Scene

SEGMENT_COLORS = {
    name: (((i * 5 + 3) % 13) / 12, ((i * 7 + 5) % 13) / 12, ((i * 11 + 9) % 13) / 12) for i, name in enumerate(DISTANCES)
}  # one fixed colour a shape; the background is black


def edges(pictures: Tensor | Sequence[Scene]) -> Tensor:
    """White edges on black, (n, 128, 128, 3), of pictures (n, 128, 128, 3) or of rendered scenes (Sobel, thresholded)."""
    image = pictures if isinstance(pictures, Tensor) else render(pictures)[0]
    x = F.pad(image.permute(0, 3, 1, 2).flatten(0, 1)[:, None], (1, 1, 1, 1), mode="replicate")
    sobel = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]]) / 4
    g = F.conv2d(x, torch.stack((sobel, sobel.T))[:, None])
    strength = g.square().sum(1).sqrt().unflatten(0, (len(image), 3)).amax(1)
    return (strength > 0.12).float()[..., None].expand(-1, -1, -1, 3).contiguous()


def segments(scenes: Sequence[Scene]) -> Tensor:
    """Each object's area in its shape's palette colour on black, (n, 128, 128, 3)."""
    _, masks = render(scenes)
    out = torch.zeros(len(scenes), SIDE, SIDE, 3)
    for n, scene in enumerate(scenes):
        for layer, obj in enumerate(scene.objects):
            out[n][masks[n, layer] > 0.5] = torch.tensor(SEGMENT_COLORS[obj.shape])
    return out


def coarse_colors(images: Tensor) -> Tensor:
    """Mean colours of an 8 x 8 grid, (n, 8, 8, 3), of pictures (n, h, w, 3)."""
    return F.adaptive_avg_pool2d(images.permute(0, 3, 1, 2), 8).permute(0, 2, 3, 1)


def strokes(scene: Scene, count: int = 90) -> Tensor:
    """A clumsy painting of the scene, (128, 128, 3): broad strokes, each of the colour found under its middle."""
    image = render([scene])[0][0]
    lot = random.Random(f"toybox strokes {scene.seed}")
    line = torch.arange(SIDE, dtype=torch.float32) + 0.5
    x, y = line[None, :], line[:, None]
    out = image.median(0).values.median(0).values.expand(SIDE, SIDE, 3).clone()
    for i in range(count):
        cx, cy = lot.uniform(0, SIDE - 1), lot.uniform(0, SIDE - 1)
        half, width = (lot.uniform(8, 20), lot.uniform(6, 9)) if i < count // 2 else (lot.uniform(3, 9), lot.uniform(3, 5))
        du, dv = lot.uniform(-1, 1), lot.uniform(-1, 1)
        norm = max((du * du + dv * dv) ** 0.5, 1e-3)
        du, dv = du / norm, dv / norm
        along = ((x - cx) * du + (y - cy) * dv).clamp(-half, half)
        away = ((x - cx - along * du).square() + (y - cy - along * dv).square()).sqrt()
        cover = (0.5 + width - away).clamp(0, 1)[..., None]
        out = out * (1 - cover) + image[int(cy), int(cx)] * cover
    return out


def composite(scene: Scene, other: Scene) -> tuple[Tensor, Tensor]:
    """Object 0 of `other` pasted into `scene` with a halo of its old background: picture (128, 128, 3), pasted area (128, 128)."""
    images, masks = render([scene, other])
    pasted = F.max_pool2d((masks[1, :1] > 0.5).float()[None], 7, 1, 3)[0, 0]
    return torch.where(pasted[..., None] > 0, images[1], images[0]), pasted
