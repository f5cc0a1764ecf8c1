"""ER-SDE: Taylor solvers of a reverse SDE whose amount of noise is a free function of the level (Cui et al. 2023)."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from diffusion.samplers.loop import Denoise, NoiseSource, Stepper
from diffusion.schedule import Step

_POINTS = 200  # of the Riemann sums below; the published solver's number, with it the numbers are those of ComfyUI


def noise_scale(solver_type: str, eta: float) -> Callable[[float], float]:
    """phi(sigma), whose decline over a step says how much of the state is kept: phi(sigma_next) / phi(sigma).

    sigma is the ODE, sigma^(1 + eta) the reverse SDE, and sigma (e^(sigma^0.3) + 10) the published "ER-SDE 5".
    """
    if solver_type == "ER-SDE":
        return lambda sigma: sigma * (math.exp(sigma**0.3) + 10)
    if solver_type == "Reverse-time SDE":
        return lambda sigma: sigma ** (1 + eta)
    if solver_type == "ODE":
        return lambda sigma: sigma
    raise ValueError(f"solver_type: ER-SDE, Reverse-time SDE or ODE is wanted, got {solver_type!r}")


def er_sde(solver_type: str = "ER-SDE", max_stage: int = 3, eta: float = 1.0, s_noise: float = 1.0) -> Stepper:
    """ER-SDE-Solver-1 to -3 in VE form: D and its divided differences in sigma, of up to three levels (sec. 3.3, alg. 1-3)."""
    if not 1 <= max_stage <= 3:
        raise ValueError(f"max_stage: 1..3 is wanted, got {max_stage}")
    phi = noise_scale(solver_type, eta)
    noisy = s_noise > 0 and solver_type != "ODE" and not (solver_type == "Reverse-time SDE" and eta == 0)
    past: list[Tensor] = []  # D of the step before, and its first divided difference once there is one

    def step(denoise: Denoise, x: Tensor, s: Step, noise: NoiseSource) -> tuple[Tensor, Tensor]:
        x0 = denoise(x, s.sigma)
        if s.sigma_next == 0:
            return x0, x0
        if s.ascending:
            raise ValueError(f"sigmas: er_sde only goes down, got {s.sigma} -> {s.sigma_next}")
        end, dt = phi(s.sigma_next), s.sigma_next - s.sigma
        kept = end / phi(s.sigma)
        x = kept * x + (1 - kept) * x0
        known = [x0]
        if past and max_stage >= 2:
            width = -dt / _POINTS
            levels = [s.sigma_next + j * width for j in range(_POINTS)]
            first = (x0 - past[0]) / (s.sigma - s.sigmas[s.index - 1])
            known.append(first)
            x = x + (dt + end * width * sum(1 / phi(level) for level in levels)) * first
            if len(past) > 1 and max_stage >= 3:
                second = 2 * (first - past[1]) / (s.sigma - s.sigmas[s.index - 2])
                moment = width * sum((level - s.sigma) / phi(level) for level in levels)
                x = x + (dt**2 / 2 + end * moment) * second
        past[:] = known
        up = s.sigma_next**2 - (s.sigma * kept) ** 2
        return (x + noise(s.sigma, s.sigma_next) * (s_noise * math.sqrt(up)) if noisy and up > 0 else x), x0

    return step
