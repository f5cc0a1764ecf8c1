"""Samplers: small pure steppers in VE form, driven by one loop, found by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Literal

from torch import Tensor

from diffusion.samplers import adams, dpmpp, euler, heun, unipc
from diffusion.samplers.euler import ddim_step, eps_of
from diffusion.samplers.loop import Bare, Denoise, Net, NoiseSource, OnStep, Stepper, integrate, no_noise, silent
from diffusion.samplers.sources import BrownianNoise, WhiteNoise

__all__ = [
    "SAMPLERS",
    "Bare",
    "BrownianNoise",
    "Denoise",
    "Net",
    "NoiseSource",
    "OnStep",
    "Solver",
    "Stepper",
    "WhiteNoise",
    "ddim_step",
    "eps_of",
    "integrate",
    "make_stepper",
    "no_noise",
    "noise_source",
    "silent",
]


@dataclass(frozen=True, slots=True)
class Solver:
    """A named sampler: `make(**options)` gives the stepper of one run, which draws the kind of noise named here."""

    make: Callable[..., Stepper]
    noise: Literal["none", "white", "brownian"] = "none"

    @property
    def options(self) -> dict[str, object]:
        """The options of `make` and their defaults."""
        return {name: p.default for name, p in inspect.signature(self.make).parameters.items()}


_2m_sde_heun = partial(dpmpp.dpmpp_2m_sde, solver_type="heun")

# ComfyUI's names in its order; "_gpu" there says where the tree is drawn, which is always the CPU here
SAMPLERS: Mapping[str, Solver] = MappingProxyType(
    {
        "euler": Solver(euler.euler),
        "euler_ancestral": Solver(euler.euler_ancestral, "white"),
        "heun": Solver(heun.heun),
        "heunpp2": Solver(heun.heunpp2),
        "exp_heun_2_x0": Solver(heun.exp_heun_2_x0),
        "dpm_2": Solver(heun.dpm_2),
        "dpm_2_ancestral": Solver(heun.dpm_2_ancestral, "white"),
        "lms": Solver(adams.lms),
        "dpmpp_2s_ancestral": Solver(heun.dpmpp_2s_ancestral, "white"),
        "dpmpp_sde": Solver(dpmpp.dpmpp_sde, "brownian"),
        "dpmpp_sde_gpu": Solver(dpmpp.dpmpp_sde, "brownian"),
        "dpmpp_2m": Solver(dpmpp.dpmpp_2m),
        "dpmpp_2m_sde": Solver(dpmpp.dpmpp_2m_sde, "brownian"),
        "dpmpp_2m_sde_gpu": Solver(dpmpp.dpmpp_2m_sde, "brownian"),
        "dpmpp_2m_sde_heun": Solver(_2m_sde_heun, "brownian"),
        "dpmpp_2m_sde_heun_gpu": Solver(_2m_sde_heun, "brownian"),
        "dpmpp_3m_sde": Solver(dpmpp.dpmpp_3m_sde, "brownian"),
        "dpmpp_3m_sde_gpu": Solver(dpmpp.dpmpp_3m_sde, "brownian"),
        "ddpm": Solver(euler.ddpm, "white"),
        "lcm": Solver(euler.lcm, "white"),
        "ipndm": Solver(adams.ipndm),
        "deis": Solver(adams.deis),
        "res_multistep": Solver(dpmpp.res_multistep),
        "res_multistep_ancestral": Solver(dpmpp.res_multistep_ancestral, "white"),
        "gradient_estimation": Solver(adams.gradient_estimation),
        "ddim": Solver(euler.ddim),
        "uni_pc": Solver(unipc.uni_pc),
        "uni_pc_bh2": Solver(partial(unipc.uni_pc, variant="bh2")),
    }
)


def _solver(name: str) -> Solver:
    if name not in SAMPLERS:
        raise ValueError(f"sampler: one of {', '.join(SAMPLERS)} is wanted, got {name!r}")
    return SAMPLERS[name]


def make_stepper(name: str, **options: object) -> Stepper:
    """The stepper of one run of the named sampler. Raises ValueError for an unknown name or option."""
    solver = _solver(name)
    unknown = set(options) - set(solver.options)
    if unknown:
        known = ", ".join(solver.options) or "no options"
        raise ValueError(f"sampler {name}: {known} is wanted, got {', '.join(sorted(unknown))}")
    return solver.make(**options)


def noise_source(name: str, seed: int, x: Tensor) -> NoiseSource:
    """The noise that the named sampler draws in a run on x, from a seed; for a deterministic one, none."""
    kind = _solver(name).noise
    if kind == "white":
        return WhiteNoise(seed, x)
    return BrownianNoise(seed, x) if kind == "brownian" else no_noise
