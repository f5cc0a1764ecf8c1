"""CLIP picture encoders (Radford et al. 2021; OpenCLIP's ViT-H and bigG), from single files with HF's names or OpenAI's."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from diffusion.family import LatentFormat
from diffusion.family.checkpoint import describe
from diffusion.files import TensorFile, open_tensors
from diffusion.loading import fill
from diffusion.values import WeightsRef

latent = LatentFormat(None, scale=1.0, channels=3, factor=1)  # it works on pixels
HF, OPENAI = "vision_model.embeddings.patch_embedding.weight", "conv1.weight"
NAMES = {1024: "ViT-L/14", 1280: "ViT-H/14", 1664: "ViT-bigG/14"}  # by width; all have 16 heads
HEADS, HEAD = 16, 64  # of those known; a head's width in any other
_OPENAI = (
    (r"class_embedding", "vision_model.embeddings.class_embedding"),
    (r"positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    (r"conv1\.", "vision_model.embeddings.patch_embedding."),
    (r"ln_pre\.", "vision_model.pre_layrnorm."),
    (r"ln_post\.", "vision_model.post_layernorm."),
    (r"proj$", "visual_projection.weight"),
    (r"transformer\.resblocks\.(\d+)\.", r"vision_model.encoder.layers.\1."),
)
_OPENAI_PARTS = ("class_embedding", "positional_embedding", "conv1.", "ln_pre.", "ln_post.", "proj", "transformer.resblocks.")
_LAYER = (("ln_1.", "layer_norm1."), ("ln_2.", "layer_norm2."), ("mlp.c_fc.", "mlp.fc1."), ("mlp.c_proj.", "mlp.fc2."))


@dataclass(frozen=True, slots=True)
class Structure:
    """How large an encoder is."""

    name: str
    width: int
    layers: int
    inner: int
    embeds: int
    patch: int
    side: int  # of the pictures it reads, in pixels

    def config(self) -> CLIPVisionConfig:
        """transformers' description of it; OpenAI trained with a quick approximation of GELU."""
        return CLIPVisionConfig(
            hidden_size=self.width,
            intermediate_size=self.inner,
            projection_dim=self.embeds,
            num_hidden_layers=self.layers,
            num_attention_heads=HEADS if self.width in NAMES else max(1, self.width // HEAD),
            image_size=self.side,
            patch_size=self.patch,
            hidden_act="quick_gelu" if NAMES.get(self.width) == "ViT-L/14" else "gelu",
        )


class VisionEncoder(nn.Module):
    """An encoder that tells what IP-Adapters ask for."""

    def __init__(self, structure: Structure) -> None:
        super().__init__()
        with torch.device("meta"):
            model = cast("Any", CLIPVisionModelWithProjection(structure.config()))
        embeddings = model.vision_model.embeddings
        embeddings.position_ids = torch.arange(embeddings.num_positions)[None]  # not part of the weights
        self.model, self.side = model, structure.side

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The embedding [b, d], and the states [b, n, width] before and after the last layer, of normalised pixels [b, 3, side, side]."""
        body = self.model.vision_model
        h = before = body.pre_layrnorm(body.embeddings(x.to(body.pre_layrnorm.weight.dtype)))
        for layer in body.encoder.layers:
            before, h = h, layer(h, None)
        return self.model.visual_projection(body.post_layernorm(h[:, 0])), before, h


def load(ref: WeightsRef, dtype: torch.dtype) -> nn.Module:
    """The encoder in a file. Raises ValueError for a file that holds none."""
    return assembled(Path(ref.source), dtype, meta=False)[0]


def examine(source: Path) -> Structure:
    """What encoder a file holds, from names and shapes alone. Raises ValueError where it holds none, or weights are missing."""
    return assembled(source, torch.float32, meta=True)[1]


def assembled(source: Path, dtype: torch.dtype, *, meta: bool) -> tuple[VisionEncoder, Structure]:
    """The encoder in a file and its structure; `meta`: only to see whether it fits, no weights are read."""
    file = open_tensors(source)
    names = encoder_names(file)
    told = {name: torch.empty(file.shapes[name], device="meta") for name in names} if meta else file.read(names)
    weights = hf_names({new: told[old] for old, new in names.items()})
    structure = measured({name: tuple(tensor.shape) for name, tensor in weights.items()}, source)
    encoder = VisionEncoder(structure)
    fill(cast("nn.Module", encoder.model), weights, dtype, source)
    return encoder, structure


def encoder_names(file: TensorFile) -> dict[str, str]:
    """The names of the encoder's weights in a file, with those that they have without what stands before them; text towers are left out."""
    for mark, parts in ((HF, ("vision_model.", "visual_projection.")), (OPENAI, _OPENAI_PARTS)):
        found = next((name for name in file.shapes if name.endswith(mark)), None)
        if found is None:
            continue
        prefix = found.removesuffix(mark)
        if mark == OPENAI and f"{prefix}class_embedding" not in file.shapes:
            continue
        bare = {name: name.removeprefix(prefix) for name in file.shapes if name.startswith(prefix)}
        return {old: new for old, new in bare.items() if new.startswith(parts) and not new.endswith("position_ids")}
    if any("vision_model." in name or "visual." in name for name in file.shapes):
        raise ValueError(f"{file.path.name}: {HF} (or {OPENAI} and class_embedding) is missing in this CLIP picture encoder")
    raise ValueError(f"{file.path.name}: a CLIP picture encoder is wanted (vision_model.… or visual.…); {describe(file)}")


def hf_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under HF's names; OpenAI keeps q, k and v in one matrix and the projection the other way round."""
    if HF in weights:
        return dict(weights)
    found: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        new = name
        for pattern, replacement in _OPENAI:
            if re.match(pattern, name):
                new = re.sub(f"^{pattern}", replacement, name)
        for old, replacement in _LAYER:
            new = new.replace(f".{old}", f".{replacement}")
        stem, _, kind = new.partition(".attn.")
        if kind in ("in_proj_weight", "in_proj_bias"):
            parts = zip("qkv", tensor.chunk(3), strict=True)
            found |= {f"{stem}.self_attn.{each}_proj.{kind.removeprefix('in_proj_')}": part for each, part in parts}
        else:
            found[new.replace(".attn.", ".self_attn.")] = tensor.T if new == "visual_projection.weight" else tensor
    return found


def measured(shapes: Mapping[str, tuple[int, ...]], source: Path) -> Structure:
    """The size of an encoder from the shapes of its weights under HF's names. Raises ValueError where one that tells is missing."""
    layers = 1 + max((int(m[1]) for m in (re.match(r"vision_model\.encoder\.layers\.(\d+)\.", name) for name in shapes) if m), default=-1)
    try:
        width, _, patch, _ = shapes[HF]
        positions = shapes["vision_model.embeddings.position_embedding.weight"][0]
        inner, embeds = shapes["vision_model.encoder.layers.0.mlp.fc1.weight"][0], shapes["visual_projection.weight"][0]
    except KeyError as missing:
        raise ValueError(f"{source.name}: {missing.args[0]} is missing in this CLIP picture encoder") from missing
    name = NAMES.get(width, f"a ViT of width {width}")
    return Structure(name, width, layers, inner, embeds, patch, math.isqrt(positions - 1) * patch)
