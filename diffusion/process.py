"""What a denoiser was trained to undo: the forward process and the form of its prediction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from diffusion.schedule import Table


@dataclass(frozen=True, slots=True)
class Process:
    """The forward process a denoiser was trained on, and what it predicts ("epsilon", "v_prediction" or "sample")."""

    prediction: str = "epsilon"
    beta_schedule: str = "scaled_linear"  # "linear", "scaled_linear" or "squaredcos_cap_v2"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    steps: int = 1000
    zero_terminal_snr: bool = False

    def __post_init__(self) -> None:
        if self.prediction not in ("epsilon", "v_prediction", "sample"):
            raise ValueError(f"prediction: epsilon, v_prediction or sample is wanted, {self.prediction!r} given")

    def table(self) -> Table:
        """The levels of the training timesteps."""
        return _table(self)

    def scale_input(self, x: Tensor, sigma: float) -> Tensor:
        """The VE state x as the network was trained to see it: with variance one (Karras et al. 2022, table 1, VP column)."""
        return x / math.sqrt(sigma**2 + 1)

    def denoised(self, x: Tensor, sigma: float, raw: Tensor) -> Tensor:
        """The denoised picture D that the network's output means at the VE state x (ε and x0 forms; v: Salimans & Ho 2022, appendix D)."""
        if self.prediction == "epsilon":
            return x - raw * sigma
        if self.prediction == "v_prediction":
            return x / (sigma**2 + 1) - raw * (sigma / math.sqrt(sigma**2 + 1))
        return raw


DEFAULT_PROCESS = Process()  # Stable Diffusion 1.x


@lru_cache(maxsize=32)  # a pure function of a few numbers
def _table(process: Process) -> Table:
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
    return table.zero_terminal_snr() if process.zero_terminal_snr else table
