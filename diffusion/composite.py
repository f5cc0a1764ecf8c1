"""Pasting one batch into another through a mask."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.batch import repeat_to


def paste(destination: Tensor, source: Tensor, x: int, y: int, mask: Tensor | None = None, resize: bool = False) -> Tensor:
    """destination [b, c, h, w] with source [b', c, h', w'] laid over it at column x and row y, both ≥ 0; what sticks out is cut off.

    `mask` [k, h'', w''] is stretched to the source and says how much of it shows; rows of source and mask are repeated or cut to the batch.
    `resize` stretches the source to the destination's size first. Raises ValueError where the channels differ.
    """
    source = source.to(destination)
    if source.shape[1] != destination.shape[1]:
        raise ValueError(f"source: {destination.shape[1]} channels are wanted as in destination, {source.shape[1]} given")
    height, width = destination.shape[-2:]
    if resize:
        source = F.interpolate(source, (height, width), mode="bilinear")
    source = repeat_to(source, destination.shape[0])
    if mask is None:
        weight = torch.ones_like(source[:, :1])
    else:
        weight = F.interpolate(mask[:, None].to(source), source.shape[-2:], mode="bilinear")
        weight = repeat_to(weight, destination.shape[0])
    bottom, right = min(y + source.shape[2], height), min(x + source.shape[3], width)
    rows, columns = max(0, bottom - y), max(0, right - x)
    source, weight = source[..., :rows, :columns], weight[..., :rows, :columns]
    out = destination.clone()
    # rows of a paste that starts below the edge are empty on both sides
    under = out[..., y : y + rows, x : x + columns]
    under.copy_(source * weight + under * (1 - weight))
    return out


def paste_back(image: Tensor, source: Tensor, mask: Tensor, feather: int = 0) -> Tensor:
    """source [b, h, w, c] with image laid over it where the mask [b, h, w] is; where the mask is 0, the source bit for bit.

    Inside of the mask the image fades in over `feather` pixels from its edge, so that nothing outside changes; the picture's own border is
    no edge.
    """
    weight, eroded = mask.clone(), mask
    for _ in range(feather):
        eroded = -F.max_pool2d(-eroded[:, None], 3, stride=1, padding=1)[:, 0]
        weight += eroded
    weight = (weight / (feather + 1))[..., None]
    return image * weight + source * (1 - weight)
