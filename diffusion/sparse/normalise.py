"""Group normalisation (Wu & He 2018) with statistics from elsewhere, as those of the picture before an edit."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def statistics(x: Tensor, groups: int) -> Tensor:
    """Mean and variance of each group of channels of x [rows, c, h, w], as [2, rows, groups] in float32."""
    variance, mean = torch.var_mean(x.float().reshape(x.shape[0], groups, -1), dim=2, correction=0)
    return torch.stack([mean, variance])


def normalised(x: Tensor, seen: Tensor, norm: nn.GroupNorm) -> Tensor:
    """x [rows, c, ..] under the normalisation with these statistics in place of its own."""
    mean, variance = seen.repeat_interleave(norm.num_channels // norm.num_groups, 2)  # (rows, c)
    scale = (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.float()
    shift = -mean * scale
    if norm.bias is not None:
        shift = shift + norm.bias.float()
    shape = (*scale.shape, *[1] * (x.ndim - 2))
    return torch.addcmul(shift.view(shape).to(x.dtype), x, scale.view(shape).to(x.dtype))
