"""Pictures enlarged by a network, in tiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffusion.memory import TorchDevice
from diffusion.tiles import tiled
from diffusion.values import WeightsRef

TILE, OVERLAP, LEAST_TILE = 512, 32, 128  # pixels


@dataclass(frozen=True, slots=True)
class UpscaleModel:
    """A network that enlarges pictures."""

    socket: ClassVar[str] = "UPSCALE_MODEL"
    weights: WeightsRef


def open_upscaler(path: Path, device: TorchDevice) -> UpscaleModel:
    """The network in a file, which is read at once, to see whether it is one. Raises ValueError when not, ImportError without spandrel."""
    stat = path.stat()
    model = UpscaleModel(WeightsRef("upscaler", str(path.absolute()), "upscaler", f"{stat.st_size}:{stat.st_mtime_ns}", "float32"))
    with device.weights(model.weights):
        return model


def upscaled(model: UpscaleModel, pixels: Tensor, device: TorchDevice, heard: Callable[[], Any] = lambda: None) -> Tensor:
    """Pixels [b, h, w, 3] enlarged, from 0 to 1, in tiles that are halved for as long as they do not fit into memory.

    `heard` is called before each tile, and may raise to stop. Out of memory even with tiles of 128 pixels, torch's error comes through.
    """
    x = pixels[..., :3].movedim(-1, 1).to(device.torch, torch.float32)
    tile = TILE
    with device.weights(model.weights) as module, torch.no_grad():

        def run(part: Tensor) -> Tensor:
            heard()
            out: Tensor = module(part)
            return out

        scale: int = module.scale  # type: ignore[assignment]  # an Upscaler
        while True:
            try:
                return tiled(x, run, (tile, tile), OVERLAP, scale).clamp(0, 1).movedim(1, -1).contiguous()
            except torch.OutOfMemoryError:
                if tile // 2 < LEAST_TILE:
                    raise
                tile //= 2
