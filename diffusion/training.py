"""What one picture teaches a network: the noise-prediction loss, and a change of its weights that learns while they stay as they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion.session import Net
from diffusion.values import Conditioning
from diffusion.weights import Delta, FullDelta, LowRankDelta

# the layers that a fine-tuning of attention changes, by the end of their names (Hu et al. 2021; Kumari et al. 2023)
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2")


def noise_loss(net: Net, conditioning: Conditioning, x0: Tensor, batch: int, lot: torch.Generator) -> Tensor:
    """E ‖ε − ε_θ(x_t, t, c)‖² over `batch` pairs of timestep and noise (Ho et al. 2020, eq. 14); x0 [b, c, h, w] in model scale.

    Timesteps come one from each of `batch` equal parts of the range, which makes the estimate less noisy. Noise lives on the CPU's
    generator, so that a seed means the same on every device.
    """
    table = net.table
    steps = len(table.sigmas)
    at = ((torch.arange(batch) + torch.rand(batch, generator=lot)) / batch * steps).long().clamp(max=steps - 1)
    losses = []
    for sigma in table.sigmas[at].tolist():
        eps = torch.randn(x0.shape, generator=lot).to(x0)
        denoised = net.predict(conditioning, x0 + sigma * eps, sigma)
        losses.append(((denoised - x0) / sigma).square().mean())  # ε − ε_θ, as x_t − σ·ε_θ is the denoised estimate
    return torch.stack(losses).mean()


@dataclass(slots=True)
class Trained:
    """A change of one layer: `full`, or the product of `up` and `down`."""

    name: str
    layer: nn.Module
    up: Tensor | None = None
    down: Tensor | None = None
    full: Tensor | None = None
    parameters: list[Tensor] = field(default_factory=list)

    def change(self) -> Delta:
        """What was learned, as a change of the layer's weight on the CPU."""
        weight, (up, down, full) = f"{self.name}.weight", (None if t is None else t.detach().cpu() for t in (self.up, self.down, self.full))
        if full is not None:
            return FullDelta(weight, full)
        assert up is not None
        assert down is not None
        return LowRankDelta(weight, up, down)

    def __call__(self, layer: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
        """The layer's output with the change, as a forward hook."""
        x = args[0].float()
        if self.full is None:
            assert self.up is not None
            assert self.down is not None
            added = F.linear(F.linear(x, self.down), self.up)
        elif isinstance(layer, nn.Conv2d):
            added = F.conv2d(x, self.full, None, layer.stride, layer.padding, layer.dilation, layer.groups)
        else:
            added = F.linear(x, self.full)
        return out + added.to(out.dtype)


@contextmanager
def trained(
    net: Net, rank: int, lot: torch.Generator, names: Sequence[str] = ATTENTION, whole: Sequence[str] = ()
) -> Iterator[list[Trained]]:
    """Changes of the network's layers that begin at zero and can be trained while this is open: of the named ones, of this rank.

    With rank 0 the changes are full and of all linear and convolution layers; with another one of those that `whole` names in full. The
    network's own weights stay as they are.
    """
    unet = net.unet
    found: list[Trained] = []
    for name, layer in unet.named_modules():
        if rank and isinstance(layer, nn.Linear) and name.endswith(tuple(names)):
            down = torch.randn(rank, layer.in_features, generator=lot) / layer.in_features**0.5
            each = Trained(name, layer, torch.zeros(layer.out_features, rank, device=net.device), down.to(net.device))
            each.parameters = [t for t in (each.up, each.down) if t is not None]
            found.append(each)
        elif (not rank or name in whole) and isinstance(layer, (nn.Linear, nn.Conv2d)):
            each = Trained(name, layer, full=torch.zeros_like(layer.weight, dtype=torch.float32))
            each.parameters = [t for t in (each.full,) if t is not None]
            found.append(each)
    hooks = [each.layer.register_forward_hook(each) for each in found]
    try:
        for each in found:
            for parameter in each.parameters:
                parameter.requires_grad_()
        yield found
    finally:
        for hook in hooks:
            hook.remove()
