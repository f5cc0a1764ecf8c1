"""How far two pictures are apart: PSNR and SSIM, everywhere or where a mask says. IMAGE is (b, h, w, c) in 0..1."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def _check(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape or a.ndim != 4:
        raise ValueError(f"images: two of one shape (b, h, w, c) are wanted, got {tuple(a.shape)} and {tuple(b.shape)}")


def mean_where(values: Tensor, mask: Tensor | None = None) -> float:
    """The mean of values (b, h, w) weighted by a mask (b or 1, h, w); nan for an empty mask."""
    if mask is None:
        return values.mean().item()
    if mask.shape[-2:] != values.shape[-2:] or mask.shape[0] not in (1, values.shape[0]):
        raise ValueError(f"mask: shape {tuple(values.shape)} is wanted, got {tuple(mask.shape)}")
    weights = mask.to(values).expand_as(values)
    total = weights.sum()
    return ((values * weights).sum() / total).item() if total > 0 else math.nan


def error_map(a: Tensor, b: Tensor) -> Tensor:
    """The squared error at every pixel, averaged over channels: (b, h, w)."""
    _check(a, b)
    return (a.double() - b.double()).square().mean(dim=-1)


def mse(a: Tensor, b: Tensor, mask: Tensor | None = None) -> float:
    """The mean squared error where the mask (b, h, w) says; nan for an empty mask."""
    return mean_where(error_map(a, b), mask)


def decibels(error: float) -> float:
    """The peak signal-to-noise ratio of a mean squared error, for signals from 0 to 1: inf where there is no error."""
    return math.inf if error == 0 else -10 * math.log10(error)


def psnr(a: Tensor, b: Tensor, mask: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio in dB, -10 log10 of the mean squared error, where the mask (b, h, w) says.

    inf for equal pictures, nan for an empty mask.
    """
    return decibels(mse(a, b, mask))


def ssim_map(a: Tensor, b: Tensor) -> Tensor:
    """The SSIM index at every pixel, averaged over channels: (b, h, w) (Wang et al. 2004, eq. 13).

    Gaussian window 11 x 11, sigma 1.5; K1 = 0.01, K2 = 0.03, data range 1; the border is mirrored.
    """
    _check(a, b)
    if min(a.shape[1:3]) < 6:
        raise ValueError(f"images: at least 6 x 6 is wanted for the 11 x 11 window, got {a.shape[1]} x {a.shape[2]}")
    channels = a.shape[-1]
    x, y = a.double().movedim(-1, 1), b.double().movedim(-1, 1)
    at = torch.arange(-5, 6, dtype=torch.float64, device=a.device)
    g = torch.exp(-(at**2) / (2 * 1.5**2))
    g = g / g.sum()
    rows, columns = (g.reshape(shape).expand(channels, 1, *shape) for shape in ((11, 1), (1, 11)))

    def local_mean(z: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(F.pad(z, (5, 5, 5, 5), mode="reflect"), rows, groups=channels), columns, groups=channels)

    mu_x, mu_y = local_mean(x), local_mean(y)
    var_x, var_y = local_mean(x * x) - mu_x**2, local_mean(y * y) - mu_y**2
    cov = local_mean(x * y) - mu_x * mu_y
    c1, c2 = 0.01**2, 0.03**2
    index = ((2 * mu_x * mu_y + c1) * (2 * cov + c2)) / ((mu_x**2 + mu_y**2 + c1) * (var_x + var_y + c2))
    return index.mean(dim=1)


def ssim(a: Tensor, b: Tensor, mask: Tensor | None = None) -> float:
    """The mean of `ssim_map`, where the mask (b, h, w) says; 1 for equal pictures, nan for an empty mask."""
    return mean_where(ssim_map(a, b), mask)
