"""Background textures: how much of the second tone each pixel takes, 0..1, softened over three pixels.

Like the shapes, they use exact arithmetic only. Coordinates are in pixels.
"""

import torch
from torch import Tensor

TEXTURES = ("plain", "striped", "checkered", "dotted", "gradient")
HELD_OUT_TEXTURES = ("zigzag",)
DEPTH = {"gradient": 0.45}  # a gradient runs further than the two-tone patterns
PATTERN_DEPTH = 0.78


def _to_edge(p: Tensor, period: Tensor) -> Tensor:
    """Signed distance to the nearest edge of bars half a period wide."""
    q = p / period
    return ((q - q.floor() - 0.5).abs() - 0.25) * period


def second_tone_share(texture: str, x: Tensor, y: Tensor, across: Tensor, period: Tensor, phase: Tensor) -> Tensor:
    """The texture at pixels (n, h, w); per scene: across 0/1 (which way), the period and the phases (n, 2) in pixels."""
    across, period = across[:, None, None], period[:, None, None]
    px, py = phase[:, 0, None, None], phase[:, 1, None, None]
    x, y = x + torch.zeros_like(across), y + torch.zeros_like(across)
    if texture == "striped":
        return (0.5 + 0.35 * _to_edge(torch.where(across > 0, x, y) + px, period)).clamp(0, 1)
    if texture == "checkered":
        a = (0.5 + 0.35 * _to_edge(x + px, period * 1.5)).clamp(0, 1)
        b = (0.5 + 0.35 * _to_edge(y + py, period * 1.5)).clamp(0, 1)
        return a * (1 - b) + b * (1 - a)
    if texture == "dotted":
        u, v = (x + px) / period, (y + py) / period
        u, v = (u - u.floor() - 0.5) * period, (v - v.floor() - 0.5) * period
        return (0.5 + 0.35 * (period * 0.27 - (u * u + v * v).sqrt())).clamp(0, 1)
    if texture == "gradient":
        way = torch.where(across > 0, x, y) / 128.0
        return torch.where(px * 2 > period, way, 1 - way)
    if texture == "zigzag":
        q = (x + px) / 32.0
        fold = (q - q.floor() - 0.5).abs() * 32.0
        return (0.5 + 0.3 * _to_edge(y + fold + py, period)).clamp(0, 1)
    return torch.zeros_like(x)
