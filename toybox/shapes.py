"""Signed distances of the shapes, in units of the object's radius, y down, negative inside.

Only +, -, *, /, sqrt, abs, min, max and comparisons touch pixels here: those are exact in IEEE arithmetic, so a picture
does not depend, even in its last bit, on the batch it was rendered in. The star and the heart follow Inigo Quilez's
"2D distance functions".
"""

from collections.abc import Callable

import torch
from torch import Tensor

Distance = Callable[[Tensor, Tensor], Tensor]


def length(u: Tensor, v: Tensor) -> Tensor:
    return (u * u + v * v).sqrt()


def box(u: Tensor, v: Tensor, half_u: float, half_v: float) -> Tensor:
    du, dv = u.abs() - half_u, v.abs() - half_v
    return length(du.clamp(min=0), dv.clamp(min=0)) + torch.maximum(du, dv).clamp(max=0)


def circle(u: Tensor, v: Tensor) -> Tensor:
    return length(u, v) - 0.94


def square(u: Tensor, v: Tensor) -> Tensor:
    return box(u, v, 0.82, 0.82)


def triangle(u: Tensor, v: Tensor) -> Tensor:
    slope_u, slope_v = 0.8759, 0.4825  # outward normal of the right side, from (0, -1.02) to (0.98, 0.76)
    return torch.maximum(u.abs() * slope_u - (v + 1.02) * slope_v, v - 0.76)


def star(u: Tensor, v: Tensor) -> Tensor:
    """Five points: fold the plane into one half of one point."""
    k1u, k1v, k2u = 0.809016994, -0.587785252, -0.809016994
    u, v = u.abs(), -v
    fold = 2 * (k1u * u + k1v * v).clamp(min=0)
    u, v = u - fold * k1u, v - fold * k1v
    fold = 2 * (k2u * u + k1v * v).clamp(min=0)
    u, v = (u - fold * k2u).abs(), v - fold * k1v
    v = v - 1.1
    inner = 0.50
    bu, bv = inner * 0.587785252, inner * 0.809016994 - 1.0
    along = ((u * bu + v * bv) / (bu * bu + bv * bv)).clamp(0, 1.1)
    return length(u - bu * along, v - bv * along) * torch.where(v * bu - u * bv > 0, 1.0, -1.0)


def heart(u: Tensor, v: Tensor) -> Tensor:
    scale = 1.75
    u, v = u.abs() / scale, 0.52 - v / scale
    lobe = length(u - 0.25, v - 0.75) - 0.35355339
    m = (u + v).clamp(min=0) * 0.5
    wedge = torch.minimum(length(u, v - 1), length(u - m, v - m)) * torch.where(u > v, 1.0, -1.0)
    return torch.where(u + v > 1, lobe, wedge) * scale


def diamond(u: Tensor, v: Tensor) -> Tensor:
    wide, high = 0.74, 1.06
    return (u.abs() / wide + v.abs() / high - 1) * (wide * high / (wide * wide + high * high) ** 0.5)


def ring(u: Tensor, v: Tensor) -> Tensor:
    return (length(u, v) - 0.71).abs() - 0.27


def cross(u: Tensor, v: Tensor) -> Tensor:
    return torch.minimum(box(u, v, 0.96, 0.32), box(u, v, 0.32, 0.96))


def crescent(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(length(u, v) - 0.96, 0.78 - length(u - 0.48, v + 0.12))


def arrow(u: Tensor, v: Tensor) -> Tensor:
    """An arrow to the right: a shaft and a head."""
    head = torch.maximum((u - 1.0) * 0.7071 + v.abs() * 0.7071, 0.1 - u)
    return torch.minimum(box(u + 0.4, v, 0.55, 0.27), head)


def split_square(u: Tensor, v: Tensor) -> Tensor:
    return box(u, v, 0.84, 0.84)


BEADS = ((0.0, -0.72), (0.6235, 0.36), (-0.6235, 0.36))  # three places a third of a turn apart


def beads(u: Tensor, v: Tensor) -> list[Tensor]:
    return [length(u - bu, v - bv) - 0.31 for bu, bv in BEADS]


def bead_ring(u: Tensor, v: Tensor) -> Tensor:
    distance = (length(u, v) - 0.72).abs() - 0.15
    for bead in beads(u, v):
        distance = torch.minimum(distance, bead)
    return distance


TRAINED: dict[str, Distance] = {
    "circle": circle, "square": square, "triangle": triangle, "star": star,
    "heart": heart, "diamond": diamond, "ring": ring, "cross": cross,
}  # fmt: skip
HELD_OUT: dict[str, Distance] = {"crescent": crescent, "arrow": arrow}
OF_SUBJECT: dict[str, Distance] = {"split_square": split_square, "bead_ring": bead_ring}

DISTANCES = TRAINED | HELD_OUT | OF_SUBJECT
SHAPES = tuple(TRAINED)
HELD_OUT_SHAPES = tuple(HELD_OUT)
SUBJECTS = tuple(OF_SUBJECT)


def subject_colors(subject: str, u: Tensor, v: Tensor, radius: Tensor) -> Tensor:
    """A subject's own colours: (..., 3) from local coordinates, with edges one pixel soft (radius in pixels)."""

    def over(base: Tensor, color: tuple[float, float, float], distance: Tensor) -> Tensor:
        cover = (0.5 - distance * radius).clamp(0, 1)[..., None]
        return base * (1 - cover) + torch.tensor(color) * cover

    base = torch.zeros(*u.shape, 3)
    if subject == "split_square":
        base = over(base + torch.tensor((0.87, 0.13, 0.13)), (0.10, 0.80, 0.85), (u + v) * -0.7071)
        return over(base, (1.0, 1.0, 1.0), length(u + 0.42, v + 0.42) - 0.22)
    base = base + 0.35
    for color, bead in zip(((0.87, 0.13, 0.13), (0.98, 0.90, 0.20), (0.14, 0.34, 0.88)), beads(u, v), strict=True):
        base = over(base, color, bead)
    return base
