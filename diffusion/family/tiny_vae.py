"""Tiny autoencoders (TAESD, Bohan 2023): a VAE of some 2.5 million weights that makes and reads a large one's latents, nearly.

The authors keep encoder and decoder in two files, in which layers have numbers; diffusers has the same network as AutoencoderTiny.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny
from torch import Tensor, nn

from diffusion.family import LatentFormat
from diffusion.files import open_tensors
from diffusion.loading import fill
from diffusion.values import WeightsRef

latent = LatentFormat(None, scale=1.0, channels=4, factor=8)
SCALES = {"taesd": 0.18215, "taesdxl": 0.13025}  # their latents are in model scale, those of a graph are not
CLAMP = 1  # the first layer of the authors' decoder, which has no weights and which diffusers does not count
Module = Any  # diffusers declares no types
Weights = Mapping[str, Tensor]


class TinyVae(nn.Module):
    """The network with the scale of the latents that it knows."""

    def __init__(self, body: Module, scale: float) -> None:
        super().__init__()
        self.body, self.scale = body, scale


def load(ref: WeightsRef, dtype: torch.dtype) -> nn.Module:
    """The autoencoder of two files, the encoder's and the one beside it. Raises ValueError where they are none."""
    files = [Path(ref.source), Path(ref.beside[0])]
    read = [open_tensors(path) for path in files]
    body = assembled(*(file.read(file.shapes) for file in read), dtype=dtype, source=files[0])
    return TinyVae(body, SCALES[files[0].name.partition("_")[0]])


def examine(encoder: Path, decoder: Path) -> None:
    """Raises ValueError unless these two files are an autoencoder with four channels; only names and shapes are read."""
    shapes = [open_tensors(path).shapes for path in (encoder, decoder)]
    meta = ({name: torch.empty(shape, device="meta") for name, shape in each.items()} for each in shapes)
    assembled(*meta, dtype=torch.float32, source=encoder)


def assembled(encoder: Weights, decoder: Weights, *, dtype: torch.dtype, source: Path) -> Module:
    """The network with these weights, under the authors' names; meta tensors only check the fit."""
    weights = {f"encoder.layers.{name}": tensor for name, tensor in encoder.items()}
    for name, tensor in decoder.items():
        match = re.match(r"(\d+)\.(.+)", name)
        weights[f"decoder.layers.{int(match[1]) - CLAMP}.{match[2]}" if match else name] = tensor
    first = weights.get("encoder.layers.0.weight")
    if first is None or first.ndim != 4:
        raise ValueError(f"{source.name}: a tiny autoencoder's encoder is wanted (0.weight, …); {len(encoder)} others found")
    widths = (first.shape[0],) * 4
    with torch.device("meta"):
        body: Module = AutoencoderTiny(encoder_block_out_channels=widths, decoder_block_out_channels=widths)
    fill(body, weights, dtype, source)
    return body


def encode(vae: Module, pixels: Tensor) -> Tensor:
    """Unscaled latents."""
    x: Tensor = vae.body.encode(pixels.to(vae.body.dtype)).latents
    return x.float() / vae.scale


def decode(vae: Module, x: Tensor) -> Tensor:
    """Pixels, about -1 to 1."""
    pixels: Tensor = vae.body.decode((x * vae.scale).to(vae.body.dtype), return_dict=False)[0]
    return pixels.float()
