"""Further input channels of networks that see a picture beside the noise: inpainting (9 channels) and InstructPix2Pix (8).

Rombach et al. 2022, Brooks et al. 2023; what stands in for inputs that are not given is ComfyUI's choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.batch import repeat_to
from diffusion.values import Cond

GREY = (0.8223, -0.6876, 0.6364, 0.1380)  # Stable Diffusion 1's latent of a grey picture, in model scale


@dataclass(frozen=True, slots=True, eq=False)
class Origin:
    """What is being repainted: the latent that sampling starts from [b, c, h, w], in model scale, and its noise mask [b, 1, h, w]."""

    latent: Tensor
    mask: Tensor | None = None


def further(entry: Cond, x: Tensor, count: int, scale: float, origin: Origin | None) -> Tensor | None:
    """The `count` further channels [b, count, h, w] for the state x, by what an entry has; None for a network without any.

    c + 1: a mask, rounded, and the picture with the masked part erased, in model scale; without either the mask is 1 and the picture grey.
    c: the picture as the VAE encodes it, without the scale; zeros when none is given. Raises ValueError for other numbers.
    """
    b, c = x.shape[:2]
    if entry.concat is not None:
        if entry.concat.shape[1] != count:
            raise ValueError(f"conditioning: {count} further input channels are wanted by this model, {entry.concat.shape[1]} given")
        return repeat_to(entry.concat.to(x), b)
    if count == 0:
        return None
    if count == c:
        return torch.zeros_like(x) if entry.concat_latent is None else _fit(entry.concat_latent, x)
    if count != c + 1:
        raise ValueError(
            f"model: {count} input channels beside {c} of the latent; 0, {c} (InstructPix2Pix) or {c + 1} (inpainting) are known"
        )
    mask = entry.concat_mask if entry.concat_mask is not None or origin is None else origin.mask
    if mask is None:
        grey = x.new_tensor([*GREY, *[0.0] * c][:c])[None, :, None, None]
        return torch.cat([torch.ones_like(x[:, :1]), grey.expand_as(x)], dim=1)
    if entry.concat_latent is not None:
        picture = _fit(entry.concat_latent, x) * scale
    else:
        picture = torch.zeros_like(x) if origin is None else _fit(origin.latent, x)
    return torch.cat([_fit(mask[:, :1], x).round(), picture], dim=1)


def _fit(picture: Tensor, like: Tensor) -> Tensor:
    """Cropped around the centre to the aspect ratio of `like`, resized to its size, rows repeated in turn."""
    picture = picture.to(like)
    (height, width), (h, w) = picture.shape[2:], like.shape[2:]
    if (height, width) != (h, w):
        top = round((height - height * (width / height) / (w / h)) / 2) if width / height < w / h else 0
        left = round((width - width * (w / h) / (width / height)) / 2) if width / height > w / h else 0
        picture = F.interpolate(picture[..., top : height - top, left : width - left], (h, w), mode="bilinear")
    return repeat_to(picture, like.shape[0])
