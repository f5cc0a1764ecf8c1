"""Brush strokes from text: a colour, a width and the points they go through."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from diffusion.values import Image
from graph_engine.errors import NodeError
from graph_engine.node import Node
from nodes.params import ImageSide

if TYPE_CHECKING:
    from graph_engine.context import Context

NUMBER = r"[+-]?\d+(?:\.\d+)?"
LINE = re.compile(rf"#([0-9a-fA-F]{{6}})\s+(\d+(?:\.\d+)?)\s*:\s*({NUMBER}\s*,\s*{NUMBER}(?:\s+{NUMBER}\s*,\s*{NUMBER})*)")


@dataclass(frozen=True, slots=True)
class Stroke:
    """A round brush of a colour (rgb in 0..1) and a width in pixels, drawn through points (x, y); one point is a dot."""

    color: tuple[float, ...]
    width: float
    points: tuple[tuple[float, float], ...]


def read(text: str) -> list[Stroke]:
    """One stroke a line, "#rrggbb width: x,y x,y …"; empty lines count nothing. ValueError for a line that is none."""
    strokes = []
    for n, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        found = LINE.fullmatch(line.strip())
        if found is None:
            raise ValueError(f"line {n}: '#rrggbb width: x,y x,y' is wanted, {line.strip()!r} given")
        color, width, points = found.groups()
        numbers = [float(x) for x in re.findall(NUMBER, points)]
        rgb = tuple(int(color[i : i + 2], 16) / 255 for i in (0, 2, 4))
        strokes.append(Stroke(rgb, float(width), tuple(zip(numbers[::2], numbers[1::2], strict=True))))
    return strokes


def drawn(strokes: Iterable[Stroke], height: int, width: int) -> Tensor:
    """The strokes one over another on nothing: straight alpha [1, height, width, 4], with edges one pixel soft."""
    y, x = torch.arange(height)[:, None] + 0.5, torch.arange(width)[None, :] + 0.5
    color, alpha = torch.zeros(height, width, 3), torch.zeros(height, width, 1)  # color is premultiplied
    for stroke in strokes:
        away = torch.full((height, width), torch.inf)
        ends = stroke.points[1:] or stroke.points
        for (x0, y0), (x1, y1) in zip(stroke.points, ends, strict=False):
            dx, dy = x1 - x0, y1 - y0
            along = (((x - x0) * dx + (y - y0) * dy) / max(dx * dx + dy * dy, 1e-9)).clamp(0, 1)
            away = torch.minimum(away, torch.hypot(x - x0 - along * dx, y - y0 - along * dy))
        cover = (0.5 + stroke.width / 2 - away).clamp(0, 1)[..., None]
        color = color * (1 - cover) + torch.tensor(stroke.color) * cover
        alpha = alpha * (1 - cover) + cover
    return torch.cat([torch.where(alpha > 0, color / alpha.clamp(min=1e-6), 0.0), alpha], -1)[None]


# node


class DrawStrokes(Node, category="editing/sdedit", title="Draw Strokes", aliases=("scribble", "brush", "paint")):
    """Brush strokes on nothing, as a picture with alpha."""

    strokes: Annotated[
        str,
        Field(json_schema_extra={"multiline": True}, description="One a line, '#rrggbb width: x,y x,y …' in pixels from the top left."),
    ]
    width: ImageSide = 512
    height: ImageSide = 512

    @classmethod
    def check(cls, inputs: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        text = inputs.get("strokes")
        if isinstance(text, str):
            try:
                read(text)
            except ValueError as problem:
                yield "strokes", str(problem)

    def run(self, ctx: Context) -> Image:
        try:
            strokes = read(self.strokes)
        except ValueError as problem:
            raise NodeError(f"strokes: {problem}") from problem
        return Image(drawn(strokes, self.height, self.width))
