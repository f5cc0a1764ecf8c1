"""A quick look at a latent in the middle of a run: a linear map from latent channels to colours, and a small JPEG."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import torch
from PIL import Image as Picture
from torch import Tensor

from diffusion.values import WeightsRef

FILE = "latent_rgb.json"  # in a checkpoint folder whose latents are its own
LONGEST = 512  # pixels of the longer side, at most
UPSCALE = 8


@dataclass(frozen=True, slots=True)
class Projection:
    """rgb = weight·x + bias for latents x in model scale; weight has a row for every channel, colours lie from 0 to 1."""

    weight: tuple[tuple[float, float, float], ...]
    bias: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __call__(self, x: Tensor) -> Tensor:
        """Colours [b, h, w, 3] of x [b, c, h, w], clipped to 0..1."""
        rgb = torch.einsum("bchw,cd->bhwd", x.float(), x.new_tensor(self.weight, dtype=torch.float32))
        return (rgb + x.new_tensor(self.bias, dtype=torch.float32)).clamp(0, 1)


# least squares between latents and their pictures, as users of Stable Diffusion published them in 2022 (for colours from -1 to 1)
_SD1 = ((0.298, 0.207, 0.208), (0.187, 0.286, 0.173), (-0.158, 0.189, 0.264), (-0.184, -0.271, -0.473))
PROJECTIONS = {"sd1": Projection(tuple((r / 2, g / 2, b / 2) for r, g, b in _SD1))}


def projection(ref: WeightsRef) -> Projection:
    """The projection for a model's latents: that of its own folder (see FILE), else its family's, else one that shows grey values."""
    return _own(ref.source) or PROJECTIONS.get(ref.family) or Projection(((0.15, 0.15, 0.15),))


@lru_cache(maxsize=16)  # previews are made several times a second
def _own(source: str) -> Projection | None:
    file = Path(source) / FILE
    if not file.is_file():
        return None
    content = json.loads(file.read_text(encoding="utf-8"))
    return Projection(tuple(tuple(row) for row in content["weight"]), tuple(content["bias"]))


def jpeg(x: Tensor, ref: WeightsRef) -> bytes:
    """A JPEG of the first of the latents x [b, c, h, w] in model scale, eight pixels to a cell but at most 512 a side."""
    use = projection(ref)
    levels = (use(x[:1, : len(use.weight)])[0] * 255).to(torch.uint8).cpu().numpy()
    picture = Picture.fromarray(levels)
    factor = min(UPSCALE, LONGEST / max(picture.size))
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    out = BytesIO()
    picture.resize(size, Picture.Resampling.BICUBIC).save(out, "JPEG", quality=90)
    return out.getvalue()
