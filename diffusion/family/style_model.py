"""T2I-Adapter's style models (Mou et al. 2023): from what a CLIP picture encoder sees to tokens beside those of the text."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from diffusion.family import LatentFormat
from diffusion.family.checkpoint import describe
from diffusion.files import open_tensors
from diffusion.loading import fill
from diffusion.values import WeightsRef

latent = LatentFormat(None, scale=1.0, channels=4, factor=8)  # it knows no latents
HEADS = 8  # files do not tell
LAYER = re.compile(r"transformer_layes\.(\d+)\.")  # the authors' spelling


class QuickGELU(nn.Module):
    """CLIP's approximation of GELU."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Layer(nn.Module):
    """A transformer's layer as in CLIP."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, HEADS, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        parts = {"c_fc": nn.Linear(width, inner), "gelu": QuickGELU(), "c_proj": nn.Linear(inner, width)}
        self.mlp = nn.Sequential(OrderedDict(parts))

    def forward(self, x: Tensor) -> Tensor:
        seen = self.ln_1(x)
        x = x + self.attn(seen, seen, seen, need_weights=False)[0]
        return cast("Tensor", x + self.mlp(self.ln_2(x)))


class StyleAdapter(nn.Module):
    """Learned tokens that look at a picture's states, layer by layer; modules have the names that the authors' files have."""

    def __init__(self, tokens: int, width: int, inner: int, layers: int, text: int) -> None:
        super().__init__()
        self.style_embedding = nn.Parameter(torch.empty(1, tokens, width))
        self.proj = nn.Parameter(torch.empty(width, text))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer_layes = nn.Sequential(*(Layer(width, inner) for _ in range(layers)))

    def forward(self, states: Tensor) -> Tensor:
        """Tokens [b, n, text's width] of states [b, 1 + patches, width]."""
        x = torch.cat([states, self.style_embedding.expand(len(states), -1, -1)], dim=1)
        x = self.transformer_layes(self.ln_pre(x))
        return cast("Tensor", self.ln_post(x[:, -self.style_embedding.shape[1] :]) @ self.proj)


def load(ref: WeightsRef, dtype: torch.dtype) -> nn.Module:
    """The style model in a file. Raises ValueError for a file that holds none."""
    path = Path(ref.source)
    file = open_tensors(path)
    return assembled(file.read(file.shapes), dtype, path)


def examine(source: Path) -> StyleAdapter:
    """The style model of a file without its weights. Raises ValueError where it holds none, or weights are missing."""
    file = open_tensors(source)
    if "redux_down.weight" in file.shapes:
        raise ValueError(f"{source.name}: this is a Redux style model for Flux, which is not supported; one of T2I-Adapter is wanted")
    if not {"style_embedding", "proj"} & file.shapes.keys():
        raise ValueError(f"{source.name}: a style model is wanted (style_embedding, transformer_layes.…); {describe(file)}")
    return assembled({name: torch.empty(shape, device="meta") for name, shape in file.shapes.items()}, torch.float32, source)


def assembled(tensors: Mapping[str, Tensor], dtype: torch.dtype, source: Path) -> StyleAdapter:
    """The style model with these weights; meta tensors only check the fit."""
    layers = 1 + max((int(match[1]) for name in tensors if (match := LAYER.match(name))), default=-1)
    try:
        (_, tokens, width), (_, text) = tensors["style_embedding"].shape, tensors["proj"].shape
        inner = tensors["transformer_layes.0.mlp.c_fc.weight"].shape[0]
    except KeyError as missing:
        raise ValueError(f"{source.name}: {missing.args[0]} is missing in this style model") from missing
    except ValueError as problem:
        raise ValueError(f"{source.name}: style_embedding [1, tokens, width] and proj [width, text] are wanted ({problem})") from problem
    if width % HEADS:
        raise ValueError(f"{source.name}: style_embedding: a width that {HEADS} divides is wanted, {width} found")
    with torch.device("meta"):
        adapter = StyleAdapter(tokens, width, inner, layers, text)
    fill(adapter, tensors, dtype, source)
    return adapter
