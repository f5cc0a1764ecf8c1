"""What the CONTROL_NET socket carries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from diffusion.values import WeightsRef

# numbers of the kinds of hint that unions know (Li et al., ControlNet++ 2024)
UNION_TYPES = {
    "openpose": 0,
    "depth": 1,
    "hed/pidi/scribble/ted": 2,
    "canny/lineart/anime_lineart/mlsd": 3,
    "normal": 4,
    "segment": 5,
    "tile": 6,
    "repaint": 7,
}


@dataclass(frozen=True, slots=True)
class ControlNet:
    """A side network: a reference to its weights, and how to use them."""

    socket: ClassVar[str] = "CONTROL_NET"
    weights: WeightsRef
    kind: str = "controlnet"  # or "adapter", "lora" (weights that the U-Net's are to be added to), "difference"
    pooled: bool = False  # its residuals are averaged over the picture
    types: tuple[int, ...] = ()  # unions: the kinds of hint it gets
    base: WeightsRef | None = None  # "difference": the U-Net whose weights are to be added
