"""The one sampling loop, and the shapes of what it joins: a network, a stepper, a source of noise.

Everything here is in VE form: the state is X = x0 + sigma eps, and the network is seen as its denoiser D(X; sigma), the
estimate of x0 (Karras et al. 2022, sec. 2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from diffusion.schedule import Schedule, Step

Denoise = Callable[[Tensor, float], Tensor]  # D(X; sigma), guided
NoiseSource = Callable[[float, float], Tensor]  # unit normal noise for the move between two levels
Stepper = Callable[[Denoise, Tensor, Step, NoiseSource], tuple[Tensor, Tensor]]  # -> X at sigma_next, x0 at sigma
OnStep = Callable[[int, int, Tensor], None]  # i of n steps are done; x0. It may raise to stop the run.


class Net(Protocol):
    """What the loop asks of a network: its denoiser, and a say in the state on both sides of a step."""

    def denoise(self, x: Tensor, sigma: float, /) -> Tensor: ...
    def before(self, x: Tensor, step: Step, /) -> Tensor: ...
    def after(self, x: Tensor, x0: Tensor, step: Step, /) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Bare:
    """A net that is its denoiser alone and leaves the state as it is."""

    function: Denoise

    def denoise(self, x: Tensor, sigma: float, /) -> Tensor:
        return self.function(x, sigma)

    def before(self, x: Tensor, step: Step, /) -> Tensor:
        return x

    def after(self, x: Tensor, x0: Tensor, step: Step, /) -> Tensor:
        return x


def silent(i: int, n: int, x0: Tensor) -> None:
    """Report nothing."""


def no_noise(sigma: float, sigma_next: float) -> Tensor:
    """The source of a run that was given none: asking it is an error of the caller."""
    raise ValueError("noise: this sampler draws noise in its steps and needs a source of it")


def integrate(
    stepper: Stepper,
    net: Net,
    x: Tensor,
    schedule: Schedule,
    noise: NoiseSource = no_noise,
    on_step: OnStep = silent,
    *,
    grad: bool = False,
) -> Tensor:
    """Walk X through a schedule; every edit of the state enters through net.before and net.after.

    A stepper may remember earlier steps: make a new one for each run. Autograd is off unless `grad` asks for it.
    """
    with torch.set_grad_enabled(grad):
        for s in schedule:
            x = net.before(x, s)
            x, x0 = stepper(net.denoise, x, s, noise)
            x = net.after(x, x0, s)
            on_step(s.index + 1, s.count, x0)
    return x
