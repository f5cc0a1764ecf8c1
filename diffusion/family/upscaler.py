"""Networks that enlarge pictures (ESRGAN, SwinIR, HAT, …), as the optional package spandrel knows them, each in a file of its own."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusion.family import LatentFormat
from diffusion.files import open_tensors
from diffusion.values import WeightsRef

latent = LatentFormat(None, scale=1.0, channels=3, factor=1)  # it works on pixels


class Upscaler(nn.Module):
    """A network from pixels [b, 3, h, w] to [b, 3, h·scale, w·scale], from 0 to 1."""

    def __init__(self, described: Any) -> None:
        super().__init__()
        self.network = described.model
        self.scale = int(described.scale)
        self._described = described  # pads pictures to what the network needs, and cuts its output

    def forward(self, x: Tensor) -> Tensor:
        """The enlarged pixels."""
        out: Tensor = self._described(x)
        return out


def reader() -> Any:
    """The package spandrel. Raises ImportError, saying how to get it, where it is not installed."""
    try:
        return import_module("spandrel")
    except ImportError as missing:
        raise ImportError("upscale models need the package spandrel; install latentgraph[upscale]") from missing


def load(ref: WeightsRef, dtype: torch.dtype) -> nn.Module:
    """The network in a file, in float32. Raises ValueError for a file that holds none that spandrel knows, or one for something else."""
    path = Path(ref.source)
    file = open_tensors(path)
    spandrel = reader()
    tensors = file.read(file.shapes)
    if all(name.startswith("module.") for name in tensors):  # saved by a parallel trainer
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    try:
        found = spandrel.ModelLoader().load_from_state_dict(tensors)
    except spandrel.UnsupportedModelError as unknown:
        raise ValueError(f"{path.name}: this is no upscale model that spandrel {spandrel.__version__} knows") from unknown
    except (RuntimeError, KeyError) as problem:  # of a known kind, but not all there
        raise ValueError(
            f"{path.name}: the weights do not fit the network they are named after: {' '.join(str(problem).split())[:200]}"
        ) from problem
    if not isinstance(found, spandrel.ImageModelDescriptor):
        raise ValueError(f"{path.name}: a network from one picture to one picture is wanted, this one is for {found.purpose}")
    return Upscaler(found).to(dtype)
