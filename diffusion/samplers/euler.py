"""First-order solvers: Euler and DDIM, their ancestral forms, and the consistency sampler.

The ODE is dX/dsigma = (X - D(X; sigma)) / sigma (Karras et al. 2022, eq. 1 with s = 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from diffusion.samplers.loop import Denoise, Denoiser, NoiseSource, Stepper
from diffusion.schedule import Step

Eps = Callable[[Tensor, float], Tensor]  # the predicted noise of a VP state x_t; the level asked at, as sigma


def slope(x: Tensor, x0: Tensor, sigma: float) -> Tensor:
    """dX/dsigma at level sigma, which is also the predicted noise."""
    if sigma == 0:
        raise ValueError("sigmas: this sampler cannot start at level 0; start at 1e-4, as FlipSigmas does")
    return (x - x0) / sigma


def ancestral(sigma: float, sigma_next: float, eta: float) -> tuple[float, float]:
    """(sigma_down, sigma_up): go down to sigma_down, then add sigma_up of noise, to end at sigma_next.

    eta = 1 is the DDPM posterior (Song et al. 2021, eq. 16, in VE form), eta = 0 the ODE.
    """
    if eta == 0:
        return sigma_next, 0.0
    if sigma_next > sigma:
        raise ValueError(f"sigmas: a sampler that adds noise only goes down, got {sigma} -> {sigma_next}")
    up = min(sigma_next, eta * math.sqrt(sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2))
    return math.sqrt(sigma_next**2 - up**2), up


def euler() -> Stepper:
    """Euler's method on the probability-flow ODE (Karras et al. 2022, alg. 1 without its correction)."""

    def step(denoise: Denoise, x: Tensor, s: Step, noise: NoiseSource) -> tuple[Tensor, Tensor]:
        x0 = denoise(x, s.sigma)
        return x + slope(x, x0, s.sigma) * (s.sigma_next - s.sigma), x0

    return step


def euler_ancestral(eta: float = 1.0, s_noise: float = 1.0) -> Stepper:
    """An Euler step to sigma_down, then sigma_up of fresh noise."""

    def step(denoise: Denoise, x: Tensor, s: Step, noise: NoiseSource) -> tuple[Tensor, Tensor]:
        x0 = denoise(x, s.sigma)
        down, up = ancestral(s.sigma, s.sigma_next, eta)
        if down == 0:
            return x0, x0
        x = x + slope(x, x0, s.sigma) * (down - s.sigma)
        return (x + noise(s.sigma, s.sigma_next) * (s_noise * up) if up > 0 else x), x0

    return step


def ddim_step(eps: Eps, x: Tensor, s: Step) -> tuple[Tensor, Tensor]:
    """DDIM with eta = 0 in VP form, from x_t to x_u (Song et al. 2021, eq. 12): (x_u, the x0 it saw).

    The network is asked at s.sigma_net, the noisier end. On a reversed schedule this step is therefore DDIM inversion
    in the target-time convention (x_t is shown to the network as a state of level u), and undoes the step of the
    forward schedule up to eps(x_t, u) - eps(x_u, u).
    """
    e = eps(x, s.sigma_net)
    x0 = (x - s.sigma_t * e) / s.alpha_t
    return s.alpha_u * x0 + s.sigma_u * e, x0


def eps_of(denoise: Denoise) -> Eps:
    """The noise a VE denoiser predicts for a VP state: (X - D(X; sigma)) / sigma at X = x_t sqrt(1 + sigma^2)."""

    def eps(x: Tensor, sigma: float) -> Tensor:
        x = x * math.sqrt(1 + sigma**2)
        return slope(x, denoise(x, sigma), sigma)

    return eps


def ddim() -> Stepper:
    """Euler's method where levels fall, which is DDIM with eta = 0 exactly; DDIM inversion where they rise (`ddim_step`)."""
    fall = euler()

    def step(denoise: Denoiser, x: Tensor, s: Step, noise: NoiseSource) -> tuple[Tensor, Tensor]:
        if not s.ascending:
            return fall(denoise, x, s, noise)
        x_u, x0 = ddim_step(eps_of(denoise), x * s.alpha_t, s)
        return x_u / s.alpha_u, x0

    return step


def ddpm() -> Stepper:
    """Ancestral sampling with the exact posterior q(x_u | x_t, x0), "fixed small" (Ho et al. 2020, eq. 6-7)."""

    def step(denoise: Denoise, x: Tensor, s: Step, noise: NoiseSource) -> tuple[Tensor, Tensor]:
        if s.ascending:
            raise ValueError(f"sigmas: ddpm only goes down, got {s.sigma} -> {s.sigma_next}")
        x0 = denoise(x, s.sigma)
        ab_t, ab_u = s.alpha_t**2, s.alpha_u**2
        alpha = ab_t / ab_u
        x_t = x * s.alpha_t
        mean = (math.sqrt(ab_u) * (1 - alpha) * x0 + math.sqrt(alpha) * (1 - ab_u) * x_t) / (1 - ab_t)
        if s.sigma_next == 0:
            return mean, x0
        variance = (1 - ab_u) / (1 - ab_t) * (1 - alpha)
        return (mean + math.sqrt(variance) * noise(s.sigma, s.sigma_next)) / s.alpha_u, x0

    return step


def lcm() -> Stepper:
    """Multistep consistency sampling: jump to x0, then noise it afresh to the next level (Song et al. 2023, alg. 1)."""

    def step(denoise: Denoise, x: Tensor, s: Step, noise: NoiseSource) -> tuple[Tensor, Tensor]:
        x0 = denoise(x, s.sigma)
        return (x0 + s.sigma_next * noise(s.sigma, s.sigma_next) if s.sigma_next > 0 else x0), x0

    return step
