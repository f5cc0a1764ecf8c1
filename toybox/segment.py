"""Plain segmentation by colour: where a picture's objects are, with no network and nothing learned.

A background's tones, whatever its texture, lie on one line in colour space, from its colour to a darker shade of it (a black one's
to a lighter grey), so a pixel away from that line belongs to an object. Pictures are [b, h, w, 3] in 0..1, masks [b, h, w] of 0 and 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from toybox.draw import OUTLINE_DEPTH
from toybox.palette import COLORS, second_tone
from toybox.textures import DEPTH

NAMES = tuple(COLORS)
TOLERANCE = 0.16  # distance in rgb from the background's line, at which an object starts
FRAME = 4  # pixels at the border by whose majority the background is known


def background_colors(images: Tensor) -> list[str]:
    """The name of each background's colour, by vote of the pixels along the border."""
    h, w = images.shape[1:3]
    border = torch.ones(h, w, dtype=torch.bool)
    border[FRAME : h - FRAME, FRAME : w - FRAME] = False
    votes = (-_distances(images[:, border], min(DEPTH.values())).square() / 0.005).exp().sum(1)
    return [NAMES[i] for i in votes.argmax(1).tolist()]


def segment(images: Tensor, backgrounds: Sequence[str] | None = None) -> Tensor:
    """The silhouette of all that is not background; the backgrounds' colours are found by vote where they are not given."""
    names = _checked(images, backgrounds)
    away = _distances(images, min(DEPTH.values()))
    of_background = torch.tensor([NAMES.index(name) for name in names])
    distance = away[torch.arange(len(images)), :, :, of_background]
    return _smoothed((distance > TOLERANCE).float())


def segment_colors(images: Tensor, colors: Sequence[Sequence[str]], backgrounds: Sequence[str] | None = None) -> Tensor:
    """The silhouette split among each picture's named object colours, [b, n, h, w]: a pixel goes to the nearest of them."""
    whole = segment(images, backgrounds)
    away = _distances(images, OUTLINE_DEPTH)
    out = torch.zeros(len(images), max(map(len, colors)), *images.shape[1:3])
    for n, names in enumerate(colors):
        nearest = away[n][..., [NAMES.index(name) for name in names]].argmin(-1)
        for k in range(len(names)):
            out[n, k] = whole[n] * _smoothed((nearest == k).float()[None])[0]
    return out


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of masks (..., h, w), cut at one half; 1 where both are empty."""
    a, b = a > 0.5, b > 0.5
    union = (a | b).sum((-2, -1))
    return torch.where(union > 0, (a & b).sum((-2, -1)) / union.clamp(min=1), 1.0)


def centroid(masks: Tensor) -> Tensor:
    """Centres of mass (..., 2) of masks (..., h, w), x and y in pixels; not a number where a mask is empty."""
    h, w = masks.shape[-2:]
    mass = masks.sum((-2, -1))
    x = (masks.sum(-2) * (torch.arange(w) + 0.5)).sum(-1) / mass
    y = (masks.sum(-1) * (torch.arange(h) + 0.5)).sum(-1) / mass
    return torch.stack((x, y), -1)


def _checked(images: Tensor, backgrounds: Sequence[str] | None) -> Sequence[str]:
    if images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"pictures [b, h, w, 3] are wanted, not {list(images.shape)}")
    names = background_colors(images) if backgrounds is None else backgrounds
    if len(names) != len(images):
        raise ValueError(f"{len(images)} pictures, but {len(names)} background colours")
    if unknown := [name for name in names if name not in COLORS]:
        raise ValueError(f"unknown colour {unknown[0]!r}; known: {', '.join(COLORS)}")
    return names


def _distances(pixels: Tensor, depth: float) -> Tensor:
    """How far pixels (..., 3) are from the line between each colour and its shade of that depth: (..., 9)."""
    bright = torch.tensor([COLORS[name] for name in NAMES])
    way = torch.tensor([second_tone(name, depth) for name in NAMES]) - bright
    off = pixels[..., None, :] - bright
    along = ((off * way).sum(-1) / way.square().sum(-1)).clamp(0, 1)
    return (off - along[..., None] * way).square().sum(-1).sqrt()


def _smoothed(masks: Tensor) -> Tensor:
    """The majority in each 3 x 3 neighbourhood, which drops specks."""
    padded = F.pad(masks[:, None], (1, 1, 1, 1), mode="replicate")
    return (F.avg_pool2d(padded, 3, 1)[:, 0] > 0.5).float()
