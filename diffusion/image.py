"""Pixels and latents as rectangles of numbers: resizing as ComfyUI does it, and the way to and from 8-bit pictures.

IMAGE is (b, h, w, c) float in 0..1; everything that is said to be channels-first is (b, c, h, w).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image as Picture
from torch import Tensor

METHODS = ("nearest-exact", "bilinear", "area", "bicubic", "lanczos", "bislerp")


def crop_to_aspect(x: Tensor, width: int, height: int) -> Tensor:
    """The largest central part of x, channels-first, that has the aspect ratio width : height; at least one row and column of it."""
    h, w = x.shape[-2:]
    old, new = w / h, width / height
    # the ratio of ratios first, as ComfyUI does: halves are rounded, and another order of factors falls on their other side
    left = round((w - w * (new / old)) / 2) if old > new else 0
    top = round((h - h * (old / new)) / 2) if old < new else 0
    left, top = min(left, (w - 1) // 2), min(top, (h - 1) // 2)
    return x[..., top : h - top, left : w - left]


def resize(x: Tensor, width: int, height: int, method: str, crop: str = "disabled") -> Tensor:
    """x, channels-first, at another size; with crop "center" trimmed to the wanted aspect ratio first.

    "lanczos" goes through 8-bit pictures; "bislerp" turns channel vectors along the sphere; the others are torch's,
    without antialiasing. Raises ValueError for unknown methods and sizes below 1.
    """
    if method not in METHODS:
        raise ValueError(f"upscale_method: one of {', '.join(METHODS)} is wanted, got {method!r}")
    if crop not in ("disabled", "center"):
        raise ValueError(f"crop: disabled or center is wanted, got {crop!r}")
    if width < 1 or height < 1:
        raise ValueError(f"size: at least 1 x 1 is wanted, got {width} x {height}")
    if crop == "center":
        x = crop_to_aspect(x, width, height)
    if method == "lanczos":
        return _lanczos(x, width, height)
    if method == "bislerp":
        return _slerp_axis(_slerp_axis(x, width).mT, height).mT
    return F.interpolate(x, size=(height, width), mode=method)


def resize_image(image: Tensor, width: int, height: int, method: str, crop: str = "disabled") -> Tensor:
    """`resize` for an IMAGE (b, h, w, c)."""
    return resize(image.movedim(-1, 1), width, height, method, crop).movedim(1, -1)


def complete_size(width: int, height: int, source_width: int, source_height: int, least: int = 1) -> tuple[int, int]:
    """(width, height) with one 0 filled in so that the source's aspect ratio is kept; both 0 means the source's size.

    No side comes out below `least`.
    """
    if width == 0 and height == 0:
        return source_width, source_height
    if width == 0:
        height = max(least, height)
        return max(least, round(source_width * height / source_height)), height
    if height == 0:
        width = max(least, width)
        return width, max(least, round(source_height * width / source_width))
    return max(least, width), max(least, height)


def crop_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """The central part of x, channels-first, whose sides are multiples of a number."""
    h, w = x.shape[-2:]
    top, left = h % multiple // 2, w % multiple // 2
    return x[..., top : top + h // multiple * multiple, left : left + w // multiple * multiple]


def fit_channels(image: Tensor, channels: int) -> Tensor:
    """An IMAGE (b, h, w, 3 or 4) with 3 or 4 channels: alpha is dropped, or added as opaque."""
    return F.pad(image, (0, max(0, channels - image.shape[-1])), value=1.0)[..., :channels]


def to_pil(image: Tensor) -> list[Picture.Image]:
    """An IMAGE (b, h, w, c) as 8-bit pictures, one channel as "L", three as "RGB", four as "RGBA".

    uint8 is 255 x cut to 0..255 and truncated, not rounded: a picture that is read back and saved again keeps its
    bytes.
    """
    if image.ndim != 4 or image.shape[-1] not in (1, 3, 4):
        raise ValueError(f"image: (b, h, w, 1, 3 or 4) is wanted, got {tuple(image.shape)}")
    pixels = (image.detach().float().cpu() * 255).clamp(0, 255).numpy().astype(np.uint8)
    return [Picture.fromarray(p[..., 0] if p.shape[-1] == 1 else p) for p in pixels]


def from_pil(pictures: Picture.Image | Sequence[Picture.Image]) -> Tensor:
    """8-bit pictures of one size as an IMAGE (b, h, w, c) in 0..1."""
    pictures = [pictures] if isinstance(pictures, Picture.Image) else list(pictures)
    pixels = np.stack([np.asarray(p, dtype=np.float32) / 255 for p in pictures])
    return torch.from_numpy(pixels if pixels.ndim == 4 else pixels[..., None])


def _lanczos(x: Tensor, width: int, height: int) -> Tensor:
    """Lanczos-3 with antialiasing, in PIL; a fourth channel is alpha, which PIL multiplies in, any other number goes channel by channel."""
    flat = x.movedim(1, -1) if x.shape[1] == 4 else x.reshape(-1, *x.shape[-2:], 1)
    resized = [p.resize((width, height), Picture.Resampling.LANCZOS) for p in to_pil(flat)]
    made = from_pil(resized).movedim(-1, 1)
    return made.reshape(*x.shape[:-2], height, width).to(x)


def _slerp_axis(x: Tensor, length: int) -> Tensor:
    """Resample the last axis of x (b, c, h, w): neighbours' channel vectors are turned into each other at even speed.

    Directions follow the great circle, norms a line (Shoemake 1985). Where the directions all but coincide the nearer
    end is kept, and where they oppose each other, so that no circle is singled out, vectors are mixed linearly.
    """
    at = (torch.arange(length, dtype=torch.float32, device=x.device) + 0.5) * (x.shape[-1] / length) - 0.5
    at = at.clamp(0, x.shape[-1] - 1)
    low = at.long()
    a, b, t = x[..., low], x[..., (low + 1).clamp(max=x.shape[-1] - 1)], (at - low).to(x.dtype)
    norm_a, norm_b = a.norm(dim=1, keepdim=True), b.norm(dim=1, keepdim=True)
    unit_a = torch.where(norm_a > 0, a / norm_a, 0.0)
    unit_b = torch.where(norm_b > 0, b / norm_b, 0.0)
    cosine = (unit_a * unit_b).sum(dim=1, keepdim=True)
    angle = cosine.clamp(-1, 1).acos()
    turned = (((1 - t) * angle).sin() * unit_a + (t * angle).sin() * unit_b) / angle.sin()
    turned = turned * (norm_a * (1 - t) + norm_b * t)
    turned = torch.where(cosine > 1 - 1e-5, a, turned)
    return torch.where(cosine < 1e-5 - 1, a * (1 - t) + b * t, turned)
