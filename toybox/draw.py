"""The renderer: scenes to pictures and coverage masks, from signed distances, the same bits in any batch."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from toybox.palette import COLORS, second_tone
from toybox.shapes import DISTANCES, OF_SUBJECT, subject_colors
from toybox.textures import DEPTH, PATTERN_DEPTH, second_tone_share

if TYPE_CHECKING:
    from toybox.scenes import Obj, Scene

SIDE = 128
RADIUS = {"small": 14.0, "medium": 20.0, "large": 27.0}  # pixels
_NEAR, _MID, _FAR = 31.0, 64.0, 97.0
CELL: dict[str, tuple[float, float]] = {
    "center": (_MID, _MID), "left": (_NEAR, _MID), "right": (_FAR, _MID), "top": (_MID, _NEAR), "bottom": (_MID, _FAR),
    "top left": (_NEAR, _NEAR), "top right": (_FAR, _NEAR), "bottom left": (_NEAR, _FAR), "bottom right": (_FAR, _FAR),
}  # fmt: skip
FINISHES = ("none", "posterized", "sepia wash")
OUTLINE_DEPTH = 0.45
SHARPNESS = 0.7  # edges are 1 / 0.7 pixels wide: no harder than an autoencoder of factor 8 can draw them

_OBJECT = ("dx", "dy", "scale", "tilt", "red", "green", "blue")
_GROUND = ("red", "green", "blue", "across", "period", "px", "py")


@functools.lru_cache(maxsize=4096)
def jitter_of(seed: int) -> Mapping[str, Mapping[str, float]]:
    """The accidents of a seed, each in -1..1, drawn in one fixed order so that no attribute can move another's."""
    lot = random.Random(f"toybox jitter {seed}")
    names = {"object0": _OBJECT, "object1": _OBJECT, "ground": _GROUND}
    return {part: {name: lot.uniform(-1, 1) for name in fields} for part, fields in names.items()}


def place(obj: Obj, jitter: Mapping[str, float]) -> tuple[float, float, float, float]:
    """Centre x, y, radius (pixels) and tilt (radians) of an object."""
    x, y = CELL[obj.position]
    return x + 3 * jitter["dx"], y + 3 * jitter["dy"], RADIUS[obj.size] * (1 + 0.04 * jitter["scale"]), 0.12 * jitter["tilt"]


def render(scenes: Sequence[Scene]) -> tuple[Tensor, Tensor]:
    """Pictures (n, 128, 128, 3) in 0..1 and what of them each object covers, (n, 2, 128, 128) in 0..1."""
    image = _backgrounds(scenes)
    masks = torch.zeros(len(scenes), 2, SIDE, SIDE)
    for layer in (0, 1):
        rows = [n for n, scene in enumerate(scenes) if len(scene.objects) > layer]
        for shape in sorted({scenes[n].objects[layer].shape for n in rows}):
            of_shape = [n for n in rows if scenes[n].objects[layer].shape == shape]
            cover, color = _objects([scenes[n] for n in of_shape], layer, shape)
            image[of_shape] = image[of_shape] * (1 - cover[..., None]) + color * cover[..., None]
            masks[of_shape, layer] = cover
    masks[:, 0] = masks[:, 0] * (1 - masks[:, 1])  # the second object lies on top
    for n, scene in enumerate(scenes):
        if scene.finish != "none":
            image[n] = _finish(scene.finish, image[n], masks[n], scene.seed)
    return image, masks


def _grid() -> tuple[Tensor, Tensor]:
    line = torch.arange(SIDE, dtype=torch.float32) + 0.5
    return line[None, None, :], line[None, :, None]


def _tinted(color: tuple[float, float, float], jitter: Mapping[str, float]) -> list[float]:
    return [min(max(c + 0.025 * jitter[k], 0.0), 1.0) for c, k in zip(color, ("red", "green", "blue"), strict=True)]


def _backgrounds(scenes: Sequence[Scene]) -> Tensor:
    x, y = _grid()
    image = torch.empty(len(scenes), SIDE, SIDE, 3)
    for texture in sorted({scene.background.texture for scene in scenes}):
        rows = [n for n, scene in enumerate(scenes) if scene.background.texture == texture]
        jitters = [jitter_of(scenes[n].seed)["ground"] for n in rows]
        depth = DEPTH.get(texture, PATTERN_DEPTH)
        names = [scenes[n].background.color for n in rows]
        first = torch.tensor([_tinted(COLORS[c], j) for c, j in zip(names, jitters, strict=True)])[:, None, None]
        second = torch.tensor([_tinted(second_tone(c, depth), j) for c, j in zip(names, jitters, strict=True)])[:, None, None]
        across = torch.tensor([j["across"] for j in jitters])
        period = torch.tensor([20 + 2 * j["period"] for j in jitters])
        phase = torch.tensor([[(1 + j["px"]) * 10, (1 + j["py"]) * 10] for j in jitters])
        share = second_tone_share(texture, x, y, across, period, phase)[..., None]
        image[rows] = first * (1 - share) + second * share
    return image


def _objects(scenes: Sequence[Scene], layer: int, shape: str) -> tuple[Tensor, Tensor]:
    """Coverage (n, h, w) and colour (n, h, w, 3) of objects of one shape."""
    objects = [scene.objects[layer] for scene in scenes]
    jitters = [jitter_of(scene.seed)[f"object{layer}"] for scene in scenes]
    places = [place(o, j) for o, j in zip(objects, jitters, strict=True)]
    turns = [(cx, cy, r, math.cos(a), math.sin(a)) for cx, cy, r, a in places]
    cx, cy, r, cos, sin = torch.tensor(turns)[:, :, None, None].unbind(1)
    x, y = _grid()
    x, y = (x - cx) / r, (y - cy) / r
    u, v = x * cos + y * sin, y * cos - x * sin
    distance = DISTANCES[shape](u, v) * r
    cover = (0.5 - SHARPNESS * distance).clamp(0, 1)
    if shape in OF_SUBJECT:
        return cover, subject_colors(shape, u, v, r)
    fill = torch.tensor([_tinted(COLORS[o.color], j) for o, j in zip(objects, jitters, strict=True)])[:, None, None]
    line = torch.tensor([_tinted(second_tone(o.color, OUTLINE_DEPTH), j) for o, j in zip(objects, jitters, strict=True)])[:, None, None]
    width = torch.tensor([1.0 + 0.1 * p[2] if o.style == "outlined" else -2.0 for o, p in zip(objects, places, strict=True)])[:, None, None]
    rim = (0.5 + SHARPNESS * (distance + width)).clamp(0, 1)[..., None]
    return cover, fill * (1 - rim) + line * rim


def _finish(finish: str, image: Tensor, masks: Tensor, seed: int) -> Tensor:
    """The held-out looks of a whole picture (h, w, 3): three levels with a one-pixel outline, or a blue-sepia wash on grain."""
    if finish == "posterized":
        cover = masks.sum(0)
        shrunk = -torch.nn.functional.max_pool2d(-cover[None, None], 3, 1, 1)[0, 0]
        outline = (cover > 0.5) & (shrunk <= 0.5)
        return torch.where(outline[..., None], 0.0, (image * 3).floor().clamp(max=2) / 2)
    gray = image[..., 0] * 0.3 + image[..., 1] * 0.59 + image[..., 2] * 0.11
    grain = torch.rand(SIDE // 2, SIDE // 2, generator=torch.Generator().manual_seed(seed)) - 0.5
    grain = grain.repeat_interleave(2, 0).repeat_interleave(2, 1)
    tone = (gray + 0.16 * grain).clamp(0, 1)[..., None]
    return torch.tensor((0.13, 0.20, 0.42)) * (1 - tone) + torch.tensor((0.98, 0.90, 0.72)) * tone
