"""A denoiser that sees a picture beside the noise, made of one that does not: further input channels that at first have no effect."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion.family import family
from diffusion.memory import TorchDevice
from diffusion.patch import WeightPatch
from diffusion.values import Model
from diffusion.weights import Change, opened

FIRST = "conv_in.weight"


@dataclass(frozen=True, slots=True, eq=False)
class Widen(Change):
    """Zeros for so many further input channels of a convolution [out, in, k, k]; its other numbers stay, and so does its bias."""

    name: str
    extra: int
    strength: float = 1.0

    def change(self, weight: Tensor) -> Tensor:
        """The weight [out, in + extra, k, k]; raises ValueError for one of another layer."""
        if weight.ndim != 4:
            raise ValueError(f"further channels for {self.name}: a convolution is wanted, a weight of shape {tuple(weight.shape)} given")
        return torch.cat([weight, weight.new_zeros(weight.shape[0], self.extra, *weight.shape[2:])], 1)


@dataclass(frozen=True, slots=True)
class Widened(WeightPatch):
    """The network takes `extra` further channels and ignores them, until something is learned (Brooks et al. 2023, sec. 3.2)."""

    extra: int

    def deltas(self) -> tuple[Widen]:
        """The change of the first convolution."""
        return (Widen(FIRST, self.extra),)


def further_channels(model: Model, device: TorchDevice) -> int:
    """How many channels a model's network takes beside the latent's, its patches included; 0 for most."""
    which = family(model.weights.family)
    with opened(model.weights, model.patches, device.weights) as unet:
        return which.inputs(unet) - which.latent.channels


def seeing(model: Model, device: TorchDevice) -> Model:
    """The model with as many further channels as a latent has, at first without effect; one that has them comes back as it is.

    Raises ValueError for a network with other further channels, as for inpainting.
    """
    wanted, found = family(model.weights.family).latent.channels, further_channels(model, device)
    if found not in (0, wanted):
        raise ValueError(f"model: 0 or {wanted} input channels beside the latent's are wanted, {found} given (an inpainting model?)")
    return model if found else model.patched(Widened(wanted))
