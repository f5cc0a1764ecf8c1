"""Where two pictures differ, and what that means for feature maps of other sizes (Li et al. 2022, sec. 3.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TOUCHED = 0.3  # a cell of a smaller map is active where its softened mask exceeds this


def difference(a: Tensor, b: Tensor, threshold: float) -> Tensor:
    """Where any channel of two batches [b, c, h, w] differs by more than the threshold: bool [b, h, w]; ValueError for unequal shapes."""
    if a.shape != b.shape:
        raise ValueError(f"edited: shape {tuple(a.shape)} is wanted as the original has, {tuple(b.shape)} given")
    return ((a - b).abs() > threshold).any(1)


def dilated(mask: Tensor, radius: int) -> Tensor:
    """A mask bool [.., h, w] grown by a square of `radius` cells to each side, corners included."""
    if radius == 0:
        return mask
    grown = F.max_pool2d(mask.reshape(-1, 1, *mask.shape[-2:]).float(), 2 * radius + 1, stride=1, padding=radius)
    return grown.reshape(mask.shape) > 0


def active(mask: Tensor, size: tuple[int, int], grow: int) -> Tensor:
    """The cells of a map of `size` that an edit with this mask [h, w] reaches: bool, grown by `grow` cells; empty for an empty mask.

    A cell of a smaller map is active where more than TOUCHED of it is covered, or where it is covered as much as any cell is, so that a
    small edit does not vanish. A larger map gets the cells that active ones lie over.
    """
    soft = mask.float()[None, None]
    if not bool(mask.any()):
        return torch.zeros(size, dtype=torch.bool, device=mask.device)
    if size[0] < mask.shape[0] or size[1] < mask.shape[1]:
        soft = F.adaptive_avg_pool2d(soft, size)
        found = soft > min(TOUCHED, float(soft.amax()) - 1e-3)
    else:
        found = F.interpolate(soft, size, mode="nearest") > 0
    return dilated(found[0, 0], grow)


def cells_of(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """The latent cells, bool [h, w], that any picture of a batch of masks [b, H, W] touches at all (above 0)."""
    touched = (mask > 0).any(0).float()[None, None]
    if size[0] < touched.shape[2] or size[1] < touched.shape[3]:
        return F.adaptive_max_pool2d(touched, size)[0, 0] > 0
    return F.interpolate(touched, size, mode="nearest")[0, 0] > 0
