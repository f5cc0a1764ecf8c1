"""Samplers: small pure steppers in VE form, driven by one loop, found by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Literal

from torch import Tensor

from diffusion.samplers import adams, cfg_pp, dpm_solver, dpmpp, er_sde, euler, heun, sa_solver, seeds, unipc
from diffusion.samplers.brownian import BrownianNoise
from diffusion.samplers.euler import ddim_step, eps_of
from diffusion.samplers.loop import Bare, Denoise, Denoiser, Net, NoiseSource, OnStep, Stepper, integrate, no_noise, silent
from diffusion.samplers.sources import WhiteNoise

__all__ = [
    "SAMPLERS",
    "Bare",
    "BrownianNoise",
    "Denoise",
    "Denoiser",
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
        "euler_cfg_pp": Solver(cfg_pp.euler_cfg_pp),
        "euler_ancestral": Solver(euler.euler_ancestral, "white"),
        "euler_ancestral_cfg_pp": Solver(cfg_pp.euler_ancestral_cfg_pp, "white"),
        "heun": Solver(heun.heun),
        "heunpp2": Solver(heun.heunpp2),
        "exp_heun_2_x0": Solver(seeds.exp_heun_2_x0),
        "exp_heun_2_x0_sde": Solver(seeds.exp_heun_2_x0_sde, "white"),
        "dpm_2": Solver(heun.dpm_2),
        "dpm_2_ancestral": Solver(heun.dpm_2_ancestral, "white"),
        "lms": Solver(adams.lms),
        "dpm_fast": Solver(dpm_solver.dpm_fast),
        "dpm_adaptive": Solver(dpm_solver.dpm_adaptive, "white"),
        "dpmpp_2s_ancestral": Solver(heun.dpmpp_2s_ancestral, "white"),
        "dpmpp_2s_ancestral_cfg_pp": Solver(cfg_pp.dpmpp_2s_ancestral_cfg_pp, "white"),
        "dpmpp_sde": Solver(dpmpp.dpmpp_sde, "brownian"),
        "dpmpp_sde_gpu": Solver(dpmpp.dpmpp_sde, "brownian"),
        "dpmpp_2m": Solver(dpmpp.dpmpp_2m),
        "dpmpp_2m_cfg_pp": Solver(cfg_pp.dpmpp_2m_cfg_pp),
        "dpmpp_2m_sde": Solver(dpmpp.dpmpp_2m_sde, "brownian"),
        "dpmpp_2m_sde_gpu": Solver(dpmpp.dpmpp_2m_sde, "brownian"),
        "dpmpp_2m_sde_heun": Solver(_2m_sde_heun, "brownian"),
        "dpmpp_2m_sde_heun_gpu": Solver(_2m_sde_heun, "brownian"),
        "dpmpp_3m_sde": Solver(dpmpp.dpmpp_3m_sde, "brownian"),
        "dpmpp_3m_sde_gpu": Solver(dpmpp.dpmpp_3m_sde, "brownian"),
        "ddpm": Solver(euler.ddpm, "white"),
        "lcm": Solver(euler.lcm, "white"),
        "ipndm": Solver(adams.ipndm),
        "ipndm_v": Solver(adams.ipndm_v),
        "deis": Solver(adams.deis),
        "res_multistep": Solver(dpmpp.res_multistep),
        "res_multistep_cfg_pp": Solver(cfg_pp.res_multistep_cfg_pp),
        "res_multistep_ancestral": Solver(dpmpp.res_multistep_ancestral, "white"),
        "res_multistep_ancestral_cfg_pp": Solver(cfg_pp.res_multistep_ancestral_cfg_pp, "white"),
        "gradient_estimation": Solver(adams.gradient_estimation),
        "gradient_estimation_cfg_pp": Solver(cfg_pp.gradient_estimation_cfg_pp),
        "er_sde": Solver(er_sde.er_sde, "white"),
        "seeds_2": Solver(seeds.seeds_2, "white"),
        "seeds_3": Solver(seeds.seeds_3, "white"),
        "sa_solver": Solver(sa_solver.sa_solver, "white"),
        "sa_solver_pece": Solver(sa_solver.sa_solver_pece, "white"),
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


def noise_source(name: str, seed: int, x: Tensor, sigmas: Sequence[float]) -> NoiseSource:
    """The noise that the named sampler draws in a run on x over the levels `sigmas`, from a seed; for a deterministic one, none."""
    kind = _solver(name).noise
    if kind == "none":
        return no_noise
    if kind == "white":
        return WhiteNoise(seed, x)
    return BrownianNoise(seed, x, min(sigma for sigma in sigmas if sigma > 0), max(sigmas))
