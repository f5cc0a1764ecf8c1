"""Model families: everything that is particular to an architecture, one file each, imported when first needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from diffusion.patch import Block, Residuals, Site
    from diffusion.values import Cond, WeightsRef

NAMES = ("sd1", "sdxl")  # those that a folder or file is tried as
PARTS = (  # those of a part that comes alone
    "autoencoder",
    "controlnet",
    "ip_adapter",
    "pixel_space",
    "style_model",
    "tiny_vae",
    "upscaler",
    "vision",
)


@dataclass(frozen=True, slots=True)
class LatentFormat:
    """How a family's denoiser sees latents: x_model = x·scale, `channels` of them, one cell for `factor` × `factor` pixels."""

    name: str | None  # None: any; a VAE that came alone does not tell
    scale: float
    channels: int
    factor: int


class Family(Protocol):
    """What a family's file offers. Modules are those that its `load` makes."""

    latent: LatentFormat

    def mismatch(self, configs: Mapping[str, Mapping[str, Any]]) -> str | None:
        """Why a diffusers folder with these configurations (unet, text_encoder, vae, scheduler) is not of this family; None when it is."""

    def load(self, ref: WeightsRef, dtype: torch.dtype) -> nn.Module:
        """Load one part from its files, on the CPU, in this dtype."""

    def sites(self, unet: nn.Module) -> Sequence[tuple[Site, nn.Module]]:
        """The attention modules in order of execution."""

    def blocks(self, unet: nn.Module) -> Sequence[tuple[Block, nn.Module]]:
        """The tappable blocks in order of execution."""

    def plain(self, unet: nn.Module) -> Sequence[nn.Module]:
        """The modules in which no patch but those of blocks has a say: what may be compiled."""

    def sizes(self, unet: nn.Module, height: int, width: int) -> Mapping[int, tuple[int, int]]:
        """Height and width of the features by their scale, for a latent of this size."""

    def inputs(self, unet: nn.Module) -> int:
        """How many channels the network takes; inpainting networks more than a latent has."""

    def added(self, unet: nn.Module, told: Sequence[tuple[str, Cond]], rows: int, height: int, width: int) -> dict[str, Tensor]:
        """What the network is told beside the text, `rows` rows for each entry with its branch; the latent has height × width cells."""

    def predict(
        self, unet: nn.Module, x: Tensor, t: Tensor, context: Tensor, residuals: Residuals | None, added: Mapping[str, Tensor]
    ) -> Tensor:
        """The network's raw output for x [rows, c, h, w] scaled for it, timesteps t [rows] and context [rows, n, d]."""

    def working_bytes(self, unet: nn.Module, rows: int, height: int, width: int) -> int:
        """About how much memory one evaluation needs beside the weights."""

    def encode(self, vae: nn.Module, pixels: Tensor) -> Tensor:
        """The mode of the posterior, unscaled [b, c, h, w], of pixels [b, 3, H, W] from -1 to 1."""

    def decode(self, vae: nn.Module, x: Tensor) -> Tensor:
        """Pixels [b, 3, H, W], about -1 to 1, of unscaled latents."""


def family(name: str) -> Family:
    """The family of this name; ValueError when there is none."""
    if name not in (*NAMES, *PARTS):
        raise ValueError(f"model family: one of {', '.join((*NAMES, *PARTS))} is wanted, {name!r} given")
    return cast("Family", import_module(f"diffusion.family.{name}"))


def load(ref: WeightsRef, dtype: torch.dtype) -> nn.Module:
    """The network that a reference names, freshly loaded, on the CPU."""
    return family(ref.family).load(ref, dtype)
