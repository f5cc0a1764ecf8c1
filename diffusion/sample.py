"""From noise and a latent to a sampled latent: what every sampling node calls."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from diffusion.memory import TorchDevice
from diffusion.session import Net
from diffusion.values import Guider, Latent, Noise, Sampler, Sigmas

OnStep = Callable[[int, int, Tensor], None]


def sample(
    guider: Guider,
    noise: Noise,
    sampler: Sampler,
    sigmas: Sigmas,
    latent: Latent,
    device: TorchDevice,
    *,
    seed: int | None = None,
    on_step: OnStep | None = None,
    inspect: Callable[[Net], None] | None = None,
    samples: tuple[str, ...] = (),
) -> tuple[Latent, Latent]:
    """Walk a latent down the noise levels: (the latent at the last level, the last denoised estimate), both unscaled.

    `seed` drives the stochastic samplers (default: the noise's); `on_step(i, n, x0)` hears of every finished step with the denoised
    estimate, in model scale; `inspect` sees the net before the session closes (`net.state(patch)` gives what a patch gathered); `samples`
    names the rows of the batch for patches.
    """
    raise NotImplementedError
