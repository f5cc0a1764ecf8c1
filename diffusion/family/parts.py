"""The parts of a checkpoint, U-Net, VAE and text encoders, found in a file with the original code's names or in a diffusers folder.

A part knows how to make its empty module and how to name the file's weights as that module does, so that what is missing is known before
anything is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTokenizer

from diffusion.family.layout import is_open_clip, is_original_vae, text_to_transformers, vae_config, vae_names, vae_to_diffusers
from diffusion.family.structure import Shapes, Structure, read_diffusers, read_original, renamed
from diffusion.family.text import TextEncoder, build, clip_tokenizer
from diffusion.files import TensorFile, open_tensors
from diffusion.loading import fill, read_json, read_tensors
from diffusion.values import WeightsRef

Module = Any  # diffusers and transformers declare no types

UNET, VAE = ("model.diffusion_model.", "diffusion_model.", ""), ("first_stage_model.", "vae.", "")
# where a text encoder's weights lie, and which it is; None: what its width says
TEXT: tuple[tuple[str, str | None], ...] = (
    ("conditioner.embedders.0.transformer.", "l"),
    ("conditioner.embedders.0.model.", "g"),  # the refiner's
    ("conditioner.embedders.1.model.", "g"),
    ("conditioner.embedders.1.transformer.", "g"),
    ("cond_stage_model.transformer.", "l"),
    ("cond_stage_model.model.", "h"),
    ("cond_stage_model.", "l"),
    ("clip_l.transformer.", "l"),
    ("clip_g.transformer.", "g"),
    ("clip_h.transformer.", "h"),
    ("", None),
)
WORDS = 49408  # of CLIP's vocabulary
MARKS = ("v_pred", "ztsnr", "edm_vpred.")  # what a file says of the denoiser beside its weights
_KIND_OF_WIDTH = {768: "l", 1024: "h", 1280: "g"}


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A part of a file: its weights' names there, an empty module for them, and how to name them for it."""

    file: TensorFile
    prefix: str
    keys: tuple[str, ...]  # without the prefix
    make: Callable[[], nn.Module]
    convert: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
    structure: Any = None  # a Structure, or a configuration

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes by name without the prefix."""
        return {key: self.file.shapes[self.prefix + key] for key in self.keys}

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that most weights are stored in."""
        kinds = [self.file.dtypes[self.prefix + key] for key in self.keys]
        return max((k for k in set(kinds) if k.is_floating_point), key=kinds.count, default=torch.float32)

    def check(self) -> None:
        """Raise ValueError when weights are missing or have other shapes than the structure wants; nothing is read."""
        with torch.device("meta"):
            empty = {key: torch.empty(shape) for key, shape in self.shapes.items()}
        fill(self.make(), self.convert(empty), torch.float32, self.file.path)

    def load(self, dtype: torch.dtype) -> nn.Module:
        """The module with its weights, in this dtype."""
        tensors = self.file.read(self.prefix + key for key in self.keys)
        named = self.convert({key: tensors[self.prefix + key] for key in self.keys})
        return fill(self.make(), named, dtype, self.file.path)


def _below(file: TensorFile, prefixes: tuple[str, ...], marks: tuple[str, ...]) -> str | None:
    """The first prefix below which there are weights that start with one of the marks."""
    for prefix in prefixes:
        if any(key.startswith(tuple(prefix + mark for mark in marks)) for key in file.shapes):
            return prefix
    return None


def _keys(file: TensorFile, prefix: str) -> tuple[str, ...]:
    return tuple(key.removeprefix(prefix) for key in file.shapes if key.startswith(prefix))


# -- the U-Net --


def find_unet(file: TensorFile) -> Part | None:
    """The U-Net of a file, with original names or diffusers'; None when there is none."""
    prefix = _below(file, UNET, ("input_blocks.", "output_blocks.", "down_blocks.0.resnets.", "down_blocks.1.attentions."))
    if prefix is None:
        return None
    keys = _keys(file, prefix)
    shapes = {key: file.shapes[prefix + key] for key in keys}
    original = any(key.startswith("input_blocks.") for key in keys)
    structure = (read_original if original else read_diffusers)(shapes)
    names = structure.names()

    def convert(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        known = renamed(tensors, names) if original else {}
        return {known.get(name, name): tensor for name, tensor in tensors.items() if not name.startswith(MARKS)}

    return Part(file, prefix, keys, lambda: make_unet(structure), convert, structure)


def make_unet(structure: Structure) -> nn.Module:
    """A U-Net without weights."""
    return _meta(UNet2DConditionModel, structure.config())


def _meta(kind: Any, config: Mapping[str, Any]) -> Module:
    with torch.device("meta"):  # no random initialisation: it would cost time and move the global random state
        return kind.from_config(dict(config))


def load_unet(ref: WeightsRef, dtype: torch.dtype) -> nn.Module:
    """The U-Net of a file or folder."""
    root = Path(ref.source)
    if root.is_file():
        unet = _found(find_unet(open_tensors(root)), root, "U-Net").load(dtype)
    else:
        unet = fill(*unet_in(root / "unet"), dtype, root / "unet")
    if ref.dtype is not None and ref.dtype.startswith("float8"):
        for parameter in unet.parameters():
            parameter.data = parameter.data.to(getattr(torch, ref.dtype)).to(dtype)
    return unet


def unet_in(folder: Path, *, meta: bool = False) -> tuple[Module, dict[str, Tensor]]:
    """The U-Net of a diffusers folder without weights, and its weights; `meta`: only their shapes."""
    return _meta(UNet2DConditionModel, read_json(folder / "config.json")), read_tensors(folder, meta=meta)


def _found(part: Part | None, path: Path, what: str) -> Part:
    if part is None:
        raise ValueError(f"{path.name}: a {what} is wanted, none found")
    return part


# -- the VAE --


def find_vae(file: TensorFile) -> Part | None:
    """The VAE of a file; None when there is none."""
    prefix = _below(file, VAE, ("encoder.down.", "encoder.down_blocks.", "decoder.up.", "decoder.up_blocks."))
    if prefix is None:
        return None
    keys = _keys(file, prefix)
    config = vae_config({key: file.shapes[prefix + key] for key in keys})
    return Part(file, prefix, keys, lambda: _meta(AutoencoderKL, config), lambda tensors: vae_to_diffusers(tensors, config), config)


def load_vae(ref: WeightsRef, dtype: torch.dtype) -> nn.Module:
    """The VAE of a file or folder."""
    root = Path(ref.source)
    if root.is_file():
        return _found(find_vae(open_tensors(root)), root, "VAE").load(dtype)
    folder = root / "vae" if (root / "vae").is_dir() else root
    return fill(*vae_in(folder), dtype, folder)


def vae_in(folder: Path, *, meta: bool = False) -> tuple[Module, dict[str, Tensor]]:
    """The VAE of a diffusers folder without weights, and its weights; `meta`: only their shapes."""
    config = read_json(folder / "config.json")
    return _meta(AutoencoderKL, config), vae_to_diffusers(read_tensors(folder, meta=meta), config)


# -- text encoders --


@dataclass(frozen=True, slots=True)
class Tower:
    """A text encoder's shape: `name` is l (CLIP-L), h (OpenCLIP ViT-H) or g (OpenCLIP bigG)."""

    name: str
    width: int
    layers: int
    inner: int
    words: int
    positions: int
    projection: int | None
    open_clip: bool


def find_text(file: TensorFile) -> list[Part]:
    """The text encoders of a file, l before g; their `structure` is a Tower."""
    parts: dict[str, Part] = {}
    taken: set[str] = set()
    for prefix, name in TEXT:
        keys = tuple(key for key in _keys(file, prefix) if prefix + key not in taken)
        shapes = {key: file.shapes[prefix + key] for key in keys}
        if not any(key.startswith(("transformer.resblocks.", "text_model.encoder.layers.", "encoder.layers.")) for key in keys):
            continue
        if prefix == "" and parts:
            continue
        tower = _tower(shapes, name)
        taken.update(prefix + key for key in keys)
        parts.setdefault(tower.name, _text_part(file, prefix, keys, tower))
    return [parts[name] for name in sorted(parts, key="lhg".index)]


def _tower(shapes: Shapes, name: str | None) -> Tower:
    open_clip = is_open_clip(shapes)
    with torch.device("meta"):
        empty = {key: torch.empty(shape) for key, shape in shapes.items()}
    layers = 0
    stem = "transformer.resblocks." if open_clip else "encoder.layers."
    while any(key.removeprefix("text_model.").startswith(f"{stem}{layers}.") for key in shapes):
        layers += 1
    named = text_to_transformers(empty, layers)

    def size(key: str, axis: int) -> int:
        if key not in named:
            raise ValueError(f"{key} is missing in the text encoder")
        return int(named[key].shape[axis])

    width = size("final_layer_norm.weight", 0)
    projection = named["text_projection.weight"].shape[0] if "text_projection.weight" in named else None
    name = name or _KIND_OF_WIDTH.get(width) or ("l" if projection is None else "g")
    inner = size("encoder.layers.0.mlp.fc1.weight", 0)
    words, positions = size("embeddings.token_embedding.weight", 0), size("embeddings.position_embedding.weight", 0)
    return Tower(name, width, layers, inner, words, positions, projection, open_clip)


def _text_part(file: TensorFile, prefix: str, keys: tuple[str, ...], tower: Tower) -> Part:
    config = CLIPTextConfig(
        vocab_size=tower.words,
        hidden_size=tower.width,
        intermediate_size=tower.inner,
        num_hidden_layers=tower.layers,
        num_attention_heads=max(1, tower.width // 64),
        max_position_embeddings=tower.positions,
        hidden_act="quick_gelu" if tower.name == "l" else "gelu",
        bos_token_id=49406,
        eos_token_id=49407,
        pad_token_id=49407,
    )
    projects = tower.projection if tower.name == "g" else None

    def convert(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        named = text_to_transformers(tensors, tower.layers)
        if projects is None:
            named.pop("text_projection.weight", None)
        return named

    return Part(file, prefix, keys, lambda: build(config, projects), convert, tower)


def load_tower(part: Part, dtype: torch.dtype, *, layer: int, norm: bool) -> TextEncoder:
    """A text encoder of a file, with CLIP's tokenizer."""
    tower: Tower = part.structure
    if tower.words < WORDS:
        raise ValueError(f"{part.file.path.name}: a vocabulary of {WORDS} tokens is wanted in the text encoder, {tower.words} found")
    return TextEncoder(part.load(dtype), clip_tokenizer(tower.name == "l"), name=tower.name, layer=layer, norm=norm)


def load_tower_folder(root: Path, number: str, dtype: torch.dtype, *, name: str, layer: int, norm: bool) -> TextEncoder:
    """A text encoder of a diffusers folder, with its tokenizer; `number` is "" or "_2", which projects its pooled vector."""
    model, tensors = tower_in(root, number)
    fill(model, tensors, dtype, root / f"text_encoder{number}")
    own = root / f"tokenizer{number}"
    clips = model.config.hidden_act == "quick_gelu"  # CLIP-L's, which pads in its own way
    tokenizer = CLIPTokenizer.from_pretrained(own, local_files_only=True) if own.is_dir() else clip_tokenizer(clips)
    if name == "l" and model.config.hidden_act == "gelu":
        name = "h"  # OpenCLIP's, in 2.x
    return TextEncoder(model, tokenizer, name=name, layer=layer, norm=norm)


def tower_in(root: Path, number: str, *, meta: bool = False) -> tuple[Module, dict[str, Tensor]]:
    """A text encoder of a diffusers folder without weights, and its weights; `meta`: only their shapes.

    Raises FileNotFoundError where its vocabulary is not CLIP's and no tokenizer comes along.
    """
    folder, projects = root / f"text_encoder{number}", number == "_2"
    config = CLIPTextConfig(**read_json(folder / "config.json"))
    model = build(config, config.projection_dim if projects else None)
    tensors = {key.removeprefix("text_model."): tensor for key, tensor in read_tensors(folder, meta=meta).items()}
    tensors.pop("embeddings.position_ids", None)
    if not projects:
        tensors.pop("text_projection.weight", None)
    if config.vocab_size != WORDS and not (root / f"tokenizer{number}").is_dir():
        raise FileNotFoundError(f"{root}: tokenizer{number} wanted, not found; the text encoder's {config.vocab_size} words are not CLIP's")
    return model, tensors


__all__ = [
    "Part",
    "Tower",
    "find_text",
    "find_unet",
    "find_vae",
    "is_original_vae",
    "load_tower",
    "load_tower_folder",
    "load_unet",
    "load_vae",
    "make_unet",
    "tower_in",
    "unet_in",
    "vae_in",
    "vae_names",
]
