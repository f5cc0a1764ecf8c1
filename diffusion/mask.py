"""Masks, 1 = may change, and what is pasted or blended with them. MASK is (b, h, w), latents are (b, c, h, w)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.image import crop_to_multiple, resize


def grow(mask: Tensor, expand: int, tapered_corners: bool = True) -> Tensor:
    """A MASK grown by `expand` cells, or shrunk where that is negative: grey dilations or erosions by 3 x 3 cells.

    With tapered corners the 3 x 3 cells are a cross, so that corners are cut; else a full square.
    """
    m = mask if expand >= 0 else -mask  # eroding is dilating the negative
    for _ in range(abs(expand)):
        if tapered_corners:
            across = F.max_pool2d(m[:, None], (1, 3), stride=1, padding=(0, 1))
            down = F.max_pool2d(m[:, None], (3, 1), stride=1, padding=(1, 0))
            m = torch.maximum(across, down)[:, 0]
        else:
            m = F.max_pool2d(m[:, None], 3, stride=1, padding=1)[:, 0]
    return m if expand >= 0 else -m


def cells(mask: Tensor, height: int, width: int) -> Tensor:
    """The share of each of height x width latent cells that a MASK (b, h, w) of any size covers: (b, height, width).

    Area averages where the mask is the larger, so that above 0 is every cell that it touches: thin parts are never lost. A smaller mask
    is enlarged without smoothing.
    """
    if mask.shape[1] < height or mask.shape[2] < width:
        mask = F.interpolate(mask[:, None], (max(height, mask.shape[1]), max(width, mask.shape[2])), mode="nearest-exact")[:, 0]
    return F.adaptive_avg_pool2d(mask, (height, width))


def for_inpaint(image: Tensor, mask: Tensor, grow_by: int = 6, multiple: int = 8) -> tuple[Tensor, Tensor]:
    """(image, noise mask) to encode for inpainting: what the mask covers is grey, the noise mask is a little larger.

    image (b, h, w, c); mask (b or 1, any h, any w) is resized to it and rounded. Both are cut to multiples of the
    VAE's cell. The noise mask (b or 1, h, w) is 1 wherever the square of grow_by cells around a cell meets the mask.
    """
    h, w = image.shape[1:3]
    covered = F.interpolate(mask[:, None], size=(h, w), mode="bilinear")
    covered = crop_to_multiple(covered, multiple).round()
    pixels = crop_to_multiple(image.movedim(-1, 1), multiple)
    grey = ((pixels - 0.5) * (1 - covered) + 0.5).movedim(1, -1)
    if grow_by == 0:
        return grey, covered[:, 0]
    square = torch.ones((1, 1, grow_by, grow_by), dtype=mask.dtype, device=mask.device)
    met = F.conv2d(covered, square, padding=math.ceil((grow_by - 1) / 2)).clamp(0, 1).round()
    return grey, met[:, 0, : covered.shape[2], : covered.shape[3]]


def composite(to: Tensor, source: Tensor, x: int, y: int, feather: int = 0) -> Tensor:
    """`to` with `source` pasted at column x and row y, cut at the border; all in cells of the latent.

    The `feather` rows and columns at each side that does not lie on the border of `to` fade in linearly, 1/feather a
    cell.
    """
    source = source[:, :, : max(to.shape[2] - y, 0), : max(to.shape[3] - x, 0)]
    h, w = source.shape[2:]

    def ramp(n: int, start: int, whole: int) -> Tensor:
        """The share of the source along one side of length n that starts at cell `start`."""
        share = torch.ones(n, dtype=to.dtype, device=to.device)
        for i in range(min(feather, n)):
            if start > 0:
                share[i] *= (i + 1) / feather
            if start + n < whole:
                share[n - 1 - i] *= (i + 1) / feather
        return share

    share = ramp(h, y, to.shape[2])[:, None] * ramp(w, x, to.shape[3])
    out = to.clone()
    under = out[:, :, y : y + h, x : x + w]
    out[:, :, y : y + h, x : x + w] = source * share + under * (1 - share)
    return out


def blend(a: Tensor, b: Tensor, factor: float) -> Tensor:
    """a * factor + b * (1 - factor); b is first brought to a's size (bicubic, centre crop)."""
    if a.shape[-2:] != b.shape[-2:]:
        b = resize(b, a.shape[-1], a.shape[-2], "bicubic", "center")
    return a * factor + b * (1 - factor)
