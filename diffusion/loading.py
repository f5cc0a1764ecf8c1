"""From checkpoint files and diffusers folders to values, and from tensors to modules; opening reads headers only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusion.family import NAMES, family
from diffusion.files import TensorFile, open_tensors
from diffusion.values import VAE, Clip, Model, WeightsRef

CONFIGS = ("unet/config.json", "vae/config.json")
ENCODERS = ("", "_2")
# a diffusers folder's weights: text encoders' are called model, or pytorch_model where they are pickled or were
WEIGHTS = (
    *((stem, "safetensors") for stem in ("diffusion_pytorch_model", "model", "pytorch_model")),
    *((stem, "bin") for stem in ("diffusion_pytorch_model", "pytorch_model")),
)


def open_checkpoint(path: str | Path) -> tuple[Model, Clip, VAE]:
    """The model, text encoder and VAE of a checkpoint, a file or a diffusers folder, as references.

    Raises FileNotFoundError when there is none, ValueError when no family knows its architecture or weights are missing.
    """
    source = Path(path).expanduser().resolve()
    return _open_file(source) if source.is_file() else _open_folder(source)


def _open_folder(folder: Path) -> tuple[Model, Clip, VAE]:
    from diffusion.family.folder import check, process

    encoders = [n for n in ENCODERS if (folder / f"text_encoder{n}" / "config.json").exists()]
    wanted = [*CONFIGS, *(() if encoders else ("text_encoder/config.json",))]
    missing = [name for name in wanted if not (folder / name).exists()]
    if missing:
        raise FileNotFoundError(f"checkpoint {folder}: {', '.join(missing)} wanted in a diffusers folder, not found")
    configs = {name.split("/")[0]: read_json(folder / name) for name in (*CONFIGS, *(f"text_encoder{n}/config.json" for n in encoders))}
    reasons = []
    for name in NAMES:
        reason = family(name).mismatch(configs)
        if reason is None:
            check(folder, ("unet", "vae", *(f"text_encoder{n}" for n in encoders)))
            text = tuple(f"{part}{n}" for n in encoders for part in ("text_encoder", "tokenizer"))
            return (
                Model(_ref(folder, name, "unet", ("unet",)), process=process(folder)),
                Clip(_ref(folder, name, "text", text)),
                VAE(_ref(folder, name, "vae", ("vae",))),
            )
        reasons.append(f"{name}: {reason}")
    raise ValueError(f"checkpoint {folder.name}: no model family fits ({'; '.join(reasons)})")


def _open_file(path: Path) -> tuple[Model, Clip, VAE]:
    from diffusion.family.checkpoint import examine

    found = examine(open_tensors(path))
    return (
        Model(_file_ref(path, found.family, "unet"), process=found.process),
        Clip(_file_ref(path, found.family, "text")),
        VAE(_file_ref(path, found.family, "vae")),
    )


def open_unet(path: str | Path, dtype: str | None = None) -> Model:
    """A model from a file that has a U-Net, with original names or diffusers', or a folder that has `unet`.

    Raises ValueError where there is none, FileNotFoundError where a folder lacks it.
    """
    from diffusion.family.checkpoint import examine_unet

    source = Path(path).expanduser().resolve()
    if source.is_dir():
        return _open_unet_folder(source, dtype)
    name, process = examine_unet(open_tensors(source))
    return Model(replace(_file_ref(source, name, "unet"), dtype=dtype), process=process)


def _open_unet_folder(folder: Path, dtype: str | None) -> Model:
    from diffusion.family.folder import check, process

    if not (folder / "unet/config.json").exists():
        raise FileNotFoundError(f"model {folder}: unet/config.json wanted in a diffusers folder, not found")
    config = read_json(folder / "unet/config.json")
    if config.get("_class_name") != "UNet2DConditionModel":
        raise ValueError(f"model {folder.name}: the denoiser is a {config.get('_class_name')}, a UNet2DConditionModel is wanted")
    check(folder, ("unet",))
    name = "sd1" if config.get("addition_embed_type") is None else "sdxl"
    return Model(replace(_ref(folder, name, "unet", ("unet",)), dtype=dtype), process=process(folder))


def open_clip(paths: Sequence[str | Path]) -> Clip:
    """A text encoder from one file, or SDXL's two from two files in any order. Raises ValueError for other files."""
    from diffusion.family.checkpoint import examine_text

    first, *others = sources = [Path(path).expanduser().resolve() for path in paths]
    name = examine_text([open_tensors(source) for source in sources])
    return Clip(replace(_file_ref(first, name, "text", *others), beside=tuple(map(str, others))))


def open_vae(path: str | Path) -> VAE:
    """A VAE from a file or from a diffusers folder; whose latents it makes is not known. Raises ValueError where there is none."""
    from diffusion.family.checkpoint import examine_vae

    source = Path(path).expanduser().resolve()
    if source.is_dir():
        return _open_vae_folder(source)
    examine_vae(open_tensors(source))
    return VAE(_file_ref(source, "autoencoder", "vae"))


def _open_vae_folder(folder: Path) -> VAE:
    from diffusion.family.folder import check

    part = "vae" if (folder / "vae").is_dir() else "."
    if not (folder / part / "config.json").exists():
        raise FileNotFoundError(f"VAE {folder}: config.json wanted in a diffusers folder, not found")
    check(folder, (part,))
    return VAE(_ref(folder, "autoencoder", "vae", (part,)))


def open_tiny_vae(encoder: str | Path, decoder: str | Path) -> VAE:
    """A tiny autoencoder (TAESD) from its two files. Raises ValueError where they are none."""
    from diffusion.family.tiny_vae import examine

    first, second = (Path(path).expanduser().resolve() for path in (encoder, decoder))
    examine(first, second)
    return VAE(replace(_file_ref(first, "tiny_vae", "vae", second), beside=(str(second),)))


def pixel_space() -> VAE:
    """The VAE whose latents are the pictures themselves, from -1 to 1, three channels and a cell for each pixel."""
    return VAE(WeightsRef("pixel_space", "pixel_space", "vae", ""))


def _file_ref(path: Path, family: str, part: str, *others: Path) -> WeightsRef:
    digest = hashlib.blake2b(digest_size=16)
    for file in (path, *others):
        stat = file.stat()
        digest.update(f"{file.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return WeightsRef(family, str(path), part, digest.hexdigest())


def _ref(folder: Path, family: str, part: str, subfolders: tuple[str, ...]) -> WeightsRef:
    digest = hashlib.blake2b(digest_size=16)
    for subfolder in subfolders:
        for name, size, changed in stamps(folder / subfolder):
            digest.update(f"{subfolder}/{name} {size} {changed}\n".encode())
    return WeightsRef(family, str(folder), part, digest.hexdigest())


def stamps(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, bytes and time of change of each file in a folder, by which one sees whether they are the same still."""
    files = sorted(file for file in folder.glob("*") if file.is_file())
    return tuple((file.name, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; ValueError, naming it, for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as problem:
        raise ValueError(f"{path}: JSON is wanted: {problem}") from problem
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a JSON object is wanted, {type(content).__name__} given")
    return content


def read_tensors(folder: Path, *, meta: bool = False) -> dict[str, Tensor]:
    """All weights of one part of a diffusers folder; `meta`: only their shapes, nothing is read."""
    files = weights_in(folder)
    if meta:
        return {name: torch.empty(shape, device="meta") for file in files for name, shape in file.shapes.items()}
    return {name: tensor for file in files for name, tensor in file.read(file.shapes).items()}


def weights_in(folder: Path) -> list[TensorFile]:
    """The weights of one part of a diffusers folder: one file, or an index's shards; safetensors, or pickled ones where allowed."""
    for stem, end in WEIGHTS:
        for variant in ("", ".fp16"):
            file, index = folder / f"{stem}{variant}.{end}", folder / f"{stem}.{end}.index{variant}.json"
            if file.is_file() or index.is_file():
                shards = [file] if file.is_file() else [folder / shard for shard in _shards(index)]
                converted = [shard.with_suffix(".safetensors") for shard in shards]  # by diffusion.convert, which leaves the index
                try:
                    return [open_tensors(new if new.is_file() else old) for old, new in zip(shards, converted, strict=True)]
                except ValueError as problem:
                    raise ValueError(f"{folder}: {problem}") from problem
    found = ", ".join(sorted(file.name for file in folder.iterdir())) or "nothing"
    wanted = " or ".join(f"{stem}.safetensors" for stem in ("diffusion_pytorch_model", "model"))
    raise FileNotFoundError(f"{folder}: weights as safetensors are wanted ({wanted}, also .fp16), {found} found")


def _shards(index: Path) -> list[str]:
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(shard, str) for shard in names.values()):
        raise ValueError(f"{index}: a weight_map from weights to files is wanted")
    shards = sorted(set(names.values()))
    if any(Path(shard).name != shard for shard in shards):
        raise ValueError(f"{index}: plain file names are wanted, {shards} given")
    return shards


def fill(module: nn.Module, tensors: Mapping[str, Tensor], dtype: torch.dtype, source: Path) -> nn.Module:
    """The module, made on the meta device, with these weights in this dtype; ValueError where names or shapes do not fit."""
    wanted = module.state_dict()
    problems = [f"{name} is missing" for name in wanted.keys() - tensors.keys()]
    problems += [f"{name} is not known" for name in tensors.keys() - wanted.keys()]
    problems += [
        f"{name} has shape {tuple(tensors[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in wanted.keys() & tensors.keys()
        if wanted[name].shape != tensors[name].shape
    ]
    if problems:
        raise ValueError(f"{source}: {len(problems)} weights do not fit {type(module).__name__}: {'; '.join(sorted(problems)[:5])}")
    if any(tensor.is_meta for tensor in tensors.values()):
        return module  # only the fit was asked for
    # a copy: the file may be rewritten while the module lives; contiguous: pickled weights may be views into one another
    module.load_state_dict(
        {name: tensor.to(dtype, copy=True, memory_format=torch.contiguous_format) for name, tensor in tensors.items()}, assign=True
    )
    return module
