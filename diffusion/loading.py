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
from diffusion.files import TensorFile, open_tensors, pickle_allowed
from diffusion.process import Process
from diffusion.values import VAE, Clip, Model, WeightsRef

CONFIGS = ("unet/config.json", "vae/config.json", "scheduler/scheduler_config.json")
ENCODERS = ("", "_2")


def open_checkpoint(path: str | Path) -> tuple[Model, Clip, VAE]:
    """The model, text encoder and VAE of a checkpoint, a file or a diffusers folder, as references.

    Raises FileNotFoundError when there is none, ValueError when no family knows its architecture or weights are missing.
    """
    source = Path(path).expanduser().resolve()
    return _open_file(source) if source.is_file() else _open_folder(source)


def _open_folder(folder: Path) -> tuple[Model, Clip, VAE]:
    encoders = [n for n in ENCODERS if (folder / f"text_encoder{n}" / "config.json").exists()]
    wanted = [*CONFIGS, *(f"tokenizer{n}" for n in encoders), *(() if encoders else ("text_encoder/config.json", "tokenizer"))]
    missing = [name for name in wanted if not (folder / name).exists()]
    if missing:
        raise FileNotFoundError(f"checkpoint {folder}: {', '.join(missing)} wanted in a diffusers folder, not found")
    configs = {name.split("/")[0]: read_json(folder / name) for name in (*CONFIGS, *(f"text_encoder{n}/config.json" for n in encoders))}
    reasons = []
    for name in NAMES:
        reason = family(name).mismatch(configs)
        if reason is None:
            text = tuple(f"{part}{n}" for n in encoders for part in ("text_encoder", "tokenizer"))
            return (
                Model(_ref(folder, name, "unet", ("unet",)), process=_process(folder, configs["scheduler"])),
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
    """A model from a file that has a U-Net, with original names or diffusers', or a folder that has `unet` and `scheduler`.

    Raises ValueError where there is none, FileNotFoundError where a folder lacks either.
    """
    from diffusion.family.checkpoint import examine_unet

    source = Path(path).expanduser().resolve()
    if source.is_dir():
        return _open_unet_folder(source, dtype)
    name, process = examine_unet(open_tensors(source))
    return Model(replace(_file_ref(source, name, "unet"), dtype=dtype), process=process)


def _open_unet_folder(folder: Path, dtype: str | None) -> Model:
    files = ("unet/config.json", "scheduler/scheduler_config.json")
    if missing := [name for name in files if not (folder / name).exists()]:
        raise FileNotFoundError(f"model {folder}: {', '.join(missing)} wanted in a diffusers folder, not found")
    config, scheduler = (read_json(folder / name) for name in files)
    if config.get("_class_name") != "UNet2DConditionModel":
        raise ValueError(f"model {folder.name}: the denoiser is a {config.get('_class_name')}, a UNet2DConditionModel is wanted")
    name = "sd1" if config.get("addition_embed_type") is None else "sdxl"
    return Model(replace(_ref(folder, name, "unet", ("unet",)), dtype=dtype), process=_process(folder, scheduler))


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
        return VAE(_ref(source, "autoencoder", "vae", ("vae",) if (source / "vae").is_dir() else (".",)))
    examine_vae(open_tensors(source))
    return VAE(_file_ref(source, "autoencoder", "vae"))


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
        for file in sorted(file for file in (folder / subfolder).iterdir() if file.is_file()):
            stat = file.stat()
            digest.update(f"{subfolder}/{file.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return WeightsRef(family, str(folder), part, digest.hexdigest())


def _process(folder: Path, config: Mapping[str, Any]) -> Process:
    if config.get("trained_betas") is not None:
        raise ValueError(f"checkpoint {folder.name}: scheduler_config.json has trained_betas; a beta_schedule by name is wanted")
    default = Process()
    return Process(
        config.get("prediction_type", default.prediction),
        config.get("beta_schedule", default.beta_schedule),
        config.get("beta_start", default.beta_start),
        config.get("beta_end", default.beta_end),
        config.get("num_train_timesteps", default.steps),
        config.get("rescale_betas_zero_snr", default.zero_terminal_snr),
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; ValueError, naming it, for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as problem:
        raise ValueError(f"{path}: JSON is wanted: {problem}") from problem
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a JSON object is wanted, {type(content).__name__} given")
    return content


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All weights of one part of a diffusers folder: one safetensors file, an index's shards, or a pickled file where allowed."""
    for stem in ("diffusion_pytorch_model", "model"):
        for variant in ("", ".fp16"):
            file = folder / f"{stem}{variant}.safetensors"
            if file.is_file():
                return _all(open_tensors(file))
            index = folder / f"{stem}.safetensors.index{variant}.json"
            if index.is_file():
                shards = sorted(set(read_json(index)["weight_map"].values()))
                if any(Path(shard).name != shard for shard in shards):
                    raise ValueError(f"{index}: plain file names are wanted, {shards} given")
                return {name: tensor for shard in shards for name, tensor in _all(open_tensors(folder / shard)).items()}
    pickled = next((folder / name for name in ("diffusion_pytorch_model.bin", "pytorch_model.bin") if (folder / name).is_file()), None)
    if pickled is not None and pickle_allowed():
        return _all(open_tensors(pickled))
    found = ", ".join(sorted(file.name for file in folder.iterdir())) or "nothing"
    raise FileNotFoundError(
        f"{folder}: weights as safetensors are wanted (pickled .bin and .pt files only with --allow-pickle), {found} found"
    )


def _all(file: TensorFile) -> dict[str, Tensor]:
    return file.read(file.shapes)


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
