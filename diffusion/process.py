"""What a denoiser was trained to undo: the forward process and the form of its prediction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from diffusion.schedule import Table

PREDICTIONS = ("epsilon", "v_prediction", "sample", "lcm", "img_to_img", "edm")
LCM_STRIDE = 20  # latent consistency models know 50 of 1000 timesteps
LCM_SCALING, LCM_DATA = 10.0, 0.5


@dataclass(frozen=True, slots=True)
class Process:
    """The forward process a denoiser was trained on, and what it predicts (one of `PREDICTIONS`).

    "sample" is the clean picture; "lcm" noise, with the consistency model's boundary condition; "img_to_img" the clean picture, from an
    input that is not scaled; "edm" what Karras et al. call F.
    """

    prediction: str = "epsilon"
    beta_schedule: str = "scaled_linear"  # "linear", "scaled_linear" or "squaredcos_cap_v2"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    steps: int = 1000
    zero_terminal_snr: bool = False
    levels: tuple[float, float] | None = None  # lowest and highest sigma of a network that was trained on all between them
    sigma_data: float = 1.0  # standard deviation of clean latents, as the network was trained to believe

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise ValueError(f"prediction: one of {', '.join(PREDICTIONS)} is wanted, {self.prediction!r} given")

    def table(self) -> Table:
        """The levels of the training timesteps."""
        return _table(self)

    def scale_input(self, x: Tensor, sigma: float) -> Tensor:
        """The VE state x as the network was trained to see it: with variance one (Karras et al. 2022, table 1, VP column)."""
        return x if self.prediction == "img_to_img" else x / math.sqrt(sigma**2 + self.sigma_data**2)

    def denoised(self, x: Tensor, sigma: float, raw: Tensor) -> Tensor:
        """The denoised picture D that the network's output means at the VE state x.

        v: Salimans & Ho 2022, appendix D; edm: Karras et al. 2022, eq. 7; lcm: Luo et al. 2023, eq. 9 with their timesteps scaled by 10.
        """
        variance, data = sigma**2 + self.sigma_data**2, self.sigma_data
        if self.prediction == "epsilon":
            return x - raw * sigma
        if self.prediction == "v_prediction":
            return x * (data**2 / variance) - raw * (sigma * data / math.sqrt(variance))
        if self.prediction == "edm":
            return x * (data**2 / variance) + raw * (sigma * data / math.sqrt(variance))
        if self.prediction == "lcm":
            t = self.table().told(sigma) * LCM_SCALING
            skip, out = LCM_DATA**2 / (t**2 + LCM_DATA**2), t / math.sqrt(t**2 + LCM_DATA**2)
            return out * (x - raw * sigma) + skip * x
        return raw


DEFAULT_PROCESS = Process()  # Stable Diffusion 1.x


@lru_cache(maxsize=32)  # a pure function of a few numbers
def _table(process: Process) -> Table:
    if process.levels is not None:
        return Table.log_linear(*process.levels)
    start, end, steps = process.beta_start, process.beta_end, process.steps
    if process.beta_schedule == "scaled_linear":
        table = Table.scaled_linear(start, end, steps)
    elif process.beta_schedule == "linear":
        table = Table.from_betas(torch.linspace(start, end, steps, dtype=torch.float64))
    elif process.beta_schedule == "squaredcos_cap_v2":  # Nichol & Dhariwal 2021, eq. 17
        at = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        alpha_bar = torch.cos((at + 0.008) / 1.008 * math.pi / 2) ** 2
        table = Table.from_betas((1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999))
    else:
        raise ValueError(f"beta_schedule: scaled_linear, linear or squaredcos_cap_v2 is wanted, {process.beta_schedule!r} given")
    table = table.zero_terminal_snr() if process.zero_terminal_snr else table
    return table.every(LCM_STRIDE) if process.prediction == "lcm" else table
