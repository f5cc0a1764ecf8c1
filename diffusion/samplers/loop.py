"""The one sampling loop, and the shapes of what it joins: a network, a stepper, a source of noise.

Everything here is in VE form: the state is X = x0 + sigma eps, and the network is seen as its denoiser D(X; sigma), the
estimate of x0 (Karras et al. 2022, sec. 2).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from diffusion.schedule import Schedule, Step

Denoise = Callable[[Tensor, float], Tensor]  # D(X; sigma), guided
NoiseSource = Callable[[float, float], Tensor]  # unit normal noise for the move between two levels
OnStep = Callable[[int, int, Tensor], None]  # i of n steps are done; x0. It may raise to stop the run.


class Net(Protocol):
    """What the loop asks of a network: its denoiser, and a say in the state on both sides of a step.

    `denoise_all` gives the guided estimate together with those of all branches by name, also of branches that the
    guidance could do without.
    """

    def denoise(self, x: Tensor, sigma: float, /) -> Tensor: ...
    def denoise_all(self, x: Tensor, sigma: float, /) -> tuple[Tensor, Mapping[str, Tensor]]: ...
    def before(self, x: Tensor, step: Step, /) -> Tensor: ...
    def after(self, x: Tensor, x0: Tensor, step: Step, /) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Denoiser:
    """A net as a stepper sees it: D(X; sigma), guided, and on request what the negative branch says of the same X."""

    net: Net

    def __call__(self, x: Tensor, sigma: float, /) -> Tensor:
        return self.net.denoise(x, sigma)

    def with_negative(self, x: Tensor, sigma: float, /) -> tuple[Tensor, Tensor]:
        """(the guided D, the negative branch's D), from one evaluation. Raises ValueError where there is no such branch."""
        x0, branches = self.net.denoise_all(x, sigma)
        if "negative" not in branches:
            had = ", ".join(branches) or "none"
            raise ValueError(
                f"guider: this sampler wants a negative conditioning beside the positive one (CFGGuider); branches here: {had}"
            )
        return x0, branches["negative"]


Stepper = Callable[[Denoiser, Tensor, Step, NoiseSource], tuple[Tensor, Tensor]]  # -> X at sigma_next, x0 at sigma


@dataclass(frozen=True, slots=True)
class Bare:
    """A net that is its denoiser alone and leaves the state as it is; `negative` is what an unguided branch would say."""

    function: Denoise
    negative: Denoise | None = None

    def denoise(self, x: Tensor, sigma: float, /) -> Tensor:
        return self.function(x, sigma)

    def denoise_all(self, x: Tensor, sigma: float, /) -> tuple[Tensor, Mapping[str, Tensor]]:
        return self.function(x, sigma), {} if self.negative is None else {"negative": self.negative(x, sigma)}

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
    denoiser = Denoiser(net)
    with torch.set_grad_enabled(grad):
        for s in schedule:
            x = net.before(x, s)
            x, x0 = stepper(denoiser, x, s, noise)
            x = net.after(x, x0, s)
            on_step(s.index + 1, s.count, x0)
    return x
