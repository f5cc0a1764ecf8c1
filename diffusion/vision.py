"""Pictures as a CLIP picture encoder sees them (Radford et al. 2021)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.memory import TorchDevice
from diffusion.values import WeightsRef

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP's training pictures
AT_ONCE = 16  # pictures
Crop = Literal["center", "none"]


@dataclass(frozen=True, slots=True)
class ClipVision:
    """A CLIP picture encoder: a reference to its weights."""

    socket: ClassVar[str] = "CLIP_VISION"
    weights: WeightsRef
    name: str  # "ViT-L/14", "ViT-H/14", "ViT-bigG/14", or what else it is
    width: int  # of its states
    embeds: int  # width of the embedding


@dataclass(frozen=True, slots=True, eq=False)
class ClipVisionOutput:
    """What a CLIP picture encoder says of b pictures, in float32 on the host."""

    socket: ClassVar[str] = "CLIP_VISION_OUTPUT"
    embeds: Tensor  # [b, d]: the whole picture, in the space that it shares with texts
    penultimate: Tensor  # [b, 1 + patches, width]: states before the last layer
    last: Tensor  # [b, 1 + patches, width]: states after the last layer


def open_vision(path: str | Path) -> ClipVision:
    """The picture encoder of a file, of which only names and shapes are read; HF's names or OpenAI's.

    Raises FileNotFoundError when there is no such file, ValueError when it holds none or weights are missing.
    """
    from diffusion.family.vision import examine  # here, so that a start does not import the model libraries

    source = Path(path).expanduser().resolve()
    if not source.is_file():
        raise FileNotFoundError(f"{source}: a CLIP picture encoder is wanted, nothing found")
    structure = examine(source)
    stat = source.stat()
    digest = hashlib.blake2b(f"{source.name} {stat.st_size} {stat.st_mtime_ns}\n".encode(), digest_size=16).hexdigest()
    return ClipVision(WeightsRef("vision", str(source), "vision", digest), structure.name, structure.width, structure.embeds)


def prepared(pixels: Tensor, side: int, crop: Crop = "center") -> Tensor:
    """Pixels [b, h, w, 3 or 4] in 0..1 as the encoder reads them: [b, 3, side, side], in 8 bits, normalised.

    center: the middle square; none: squashed to a square.
    """
    x = pixels[..., :3].movedim(-1, 1).float()
    height, width = x.shape[2:]
    if (height, width) != (side, side):
        factor = side / min(height, width)
        size = (round(factor * height), round(factor * width)) if crop == "center" else (side, side)
        x = F.interpolate(x, size, mode="bicubic", antialias=True)
        top, left = (size[0] - side) // 2, (size[1] - side) // 2
        x = x[:, :, top : top + side, left : left + side]
    x = (x * 255).clamp(0, 255).round() / 255
    mean, std = (torch.tensor(each, device=x.device).view(3, 1, 1) for each in (MEAN, STD))
    return (x - mean) / std


def look(
    vision: ClipVision, pixels: Tensor, device: TorchDevice, crop: Crop = "center", heard: Callable[[], Any] = lambda: None
) -> ClipVisionOutput:
    """What the encoder says of pixels [b, h, w, 3] in 0..1; `heard` is called before each few pictures, and may raise to stop."""
    said: list[tuple[Tensor, Tensor, Tensor]] = []
    with device.weights(vision.weights) as module, torch.no_grad():
        for some in pixels.split(AT_ONCE):
            heard()
            said.append(module(prepared(some.to(device.torch), module.side, crop)))  # type: ignore[arg-type]  # a VisionEncoder
    return _gathered(said)


def look_at_nothing(vision: ClipVision, device: TorchDevice) -> ClipVisionOutput:
    """What the encoder says of a picture that is zero after normalisation, what IP-Adapters learnt as "no picture"; one row."""
    with device.weights(vision.weights) as module, torch.no_grad():
        side: int = module.side  # type: ignore[assignment]  # a VisionEncoder
        return _gathered([module(torch.zeros(1, 3, side, side, device=device.torch))])


def _gathered(said: list[tuple[Tensor, Tensor, Tensor]]) -> ClipVisionOutput:
    return ClipVisionOutput(*(torch.cat([part.float().cpu() for part in parts]) for parts in zip(*said, strict=True)))
