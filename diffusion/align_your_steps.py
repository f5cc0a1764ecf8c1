"""Noise levels that were optimised for few steps, per family of models ("Align Your Steps", Sabour et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

# the eleven levels of ten steps that the authors published; the last is replaced by 0 where a run ends
LEVELS: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {
        "SD1": (
            14.6146412293, 6.4745760956, 3.8636745985, 2.6946151520, 1.8841921177, 1.3943805092,
            0.9642583904, 0.6523686016, 0.3977456272, 0.1515232662, 0.0291671582,
        ),
        "SDXL": (
            14.6146412293, 6.3184485287, 3.7681790315, 2.1811480769, 1.3405244945, 0.8620721141,
            0.5550693289, 0.3798540708, 0.2332364134, 0.1114188177, 0.0291671582,
        ),
        "SVD": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
    }
)  # fmt: skip


def align_your_steps(model_type: str, steps: int, denoise: float = 1.0) -> Tensor:
    """The last round(steps * denoise) steps of a list of `steps`, ending with 0; other numbers than 10 are log-linear in between.

    denoise <= 0 gives an empty list. Raises ValueError for a family without a table.
    """
    if model_type not in LEVELS:
        raise ValueError(f"model_type: one of {', '.join(LEVELS)} is wanted, got {model_type!r}")
    if denoise <= 0:
        return torch.zeros(0)
    table = LEVELS[model_type]
    at, known = np.linspace(0, 1, steps + 1), np.linspace(0, 1, len(table))
    sigmas = torch.from_numpy(np.exp(np.interp(at, known, np.log(table)))).float()
    sigmas[-1] = 0
    return sigmas[-(round(steps * min(denoise, 1)) + 1) :]
