"""How far two pictures are apart."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, NamedTuple

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from diffusion.batch import repeat_to
from diffusion.compare import decibels, error_map, mean_where, ssim_map
from diffusion.values import Image, Mask, Metrics
from graph_engine.node import Node

if TYPE_CHECKING:
    from graph_engine.context import Context


def compared(a: Tensor, b: Tensor, mask: Tensor | None = None) -> dict[str, float]:
    """PSNR in dB, SSIM (Wang et al. 2004) and mean squared error of pictures [b, h, w, 3], over all pixels.

    With a mask [b, h, w] also `…_inside`, weighted by it, and `…_outside`, by 1 − mask; nan where that is empty.
    """
    errors, likeness = error_map(a, b), ssim_map(a, b)
    places: dict[str, Tensor | None] = {"": None}
    if mask is not None:
        places |= {"_inside": mask, "_outside": 1 - mask}
    found: dict[str, float] = {}
    for place, weights in places.items():
        error = mean_where(errors, weights)
        found |= {f"psnr{place}": decibels(error), f"ssim{place}": mean_where(likeness, weights), f"mse{place}": error}
    return found


def report(found: dict[str, float]) -> str:
    """The figures as a small table of plain text."""
    places = [place for place in ("", "_inside", "_outside") if f"psnr{place}" in found]
    rows = ["         PSNR dB    SSIM       MSE"]
    for place in places:
        psnr, ssim, mse = (found[f"{name}{place}"] for name in ("psnr", "ssim", "mse"))
        rows.append(f"{place.strip('_') or 'whole':8} {_shown(psnr, '7.2f')} {_shown(ssim, '7.4f')} {_shown(mse, '9.6f')}")
    return "\n".join(rows)


def _shown(value: float, form: str) -> str:
    width = int(form.split(".")[0])
    return format("–" if math.isnan(value) else "∞", f">{width}") if not math.isfinite(value) else format(value, form)


class ImageCompare(Node, category="measure", title="Compare Images", output=True, aliases=("psnr", "ssim", "mse", "metrics")):
    """Measure how far two pictures are apart: everywhere, and inside and outside of a mask."""

    image: Image
    reference: Annotated[Image, Field(description="What to compare with, of the same size; one picture serves for a whole batch.")]
    mask: Annotated[Mask | None, Field(description="Resized to the pictures; grey counts partly.")] = None

    class Out(NamedTuple):
        metrics: Metrics
        psnr: Annotated[float, Field(description="dB; infinite for equal pictures.")]
        ssim: Annotated[float, Field(description="1 for equal pictures.")]
        mse: float
        psnr_inside: Annotated[float, Field(description="Where the mask is; nan without one.")]
        ssim_inside: float
        psnr_outside: Annotated[float, Field(description="Where the mask is not; nan without one.")]
        ssim_outside: float
        report: Annotated[str, Field(description="All figures as text.")]

    def run(self, ctx: Context) -> Out:
        a, b = self.image.pixels, self.reference.pixels.to(self.image.pixels)
        if a.shape[1:] != b.shape[1:]:
            wanted, given = (f"{x.shape[2]} × {x.shape[1]}" for x in (a, b))
            raise ValueError(f"reference: a picture of {wanted} is wanted as image is, {given} given; use ImageScale")
        batch = max(len(a), len(b))
        if len(a) not in (1, batch) or len(b) not in (1, batch):
            raise ValueError(f"reference: a batch of 1 or {len(a)} is wanted as image is, {len(b)} given")
        mask = None
        if self.mask is not None:
            mask = F.interpolate(self.mask.values[:, None].to(a), a.shape[1:3], mode="bilinear")[:, 0].clamp(0, 1)
            mask = repeat_to(mask, batch)
        found = compared(a.expand(batch, -1, -1, -1), b.expand(batch, -1, -1, -1), mask)
        text = report(found)
        ctx.show(text=text)
        scalars = {name: found.get(name, math.nan) for name in self.Out._fields[1:-1]}
        return self.Out(metrics=Metrics(tuple(found.items())), **scalars, report=text)
