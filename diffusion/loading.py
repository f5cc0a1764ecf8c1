"""From a diffusers folder to values, and from its safetensors files to modules. Nothing is unpickled, nothing downloaded."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from diffusion.family import NAMES, family
from diffusion.process import Process
from diffusion.values import VAE, Clip, Model, WeightsRef

CONFIGS = ("unet/config.json", "text_encoder/config.json", "vae/config.json", "scheduler/scheduler_config.json")


def open_checkpoint(path: str | Path) -> tuple[Model, Clip, VAE]:
    """The model, text encoder and VAE of a diffusers folder, as references: only configurations are read.

    Raises FileNotFoundError when the folder is none, ValueError when no family knows its architecture.
    """
    folder = Path(path).expanduser().resolve()
    if folder.is_file():
        raise ValueError(
            f"checkpoint {folder.name}: a diffusers folder is wanted (unet/, vae/, text_encoder/, tokenizer/, scheduler/), a file given"
        )
    missing = [name for name in (*CONFIGS, "tokenizer") if not (folder / name).exists()]
    if missing:
        raise FileNotFoundError(f"checkpoint {folder}: {', '.join(missing)} wanted in a diffusers folder, not found")
    configs = {name.split("/")[0]: read_json(folder / name) for name in CONFIGS}
    reasons = []
    for name in NAMES:
        reason = family(name).mismatch(configs)
        if reason is None:
            return (
                Model(_ref(folder, name, "unet", ("unet",)), process=_process(folder, configs["scheduler"])),
                Clip(_ref(folder, name, "text", ("text_encoder", "tokenizer"))),
                VAE(_ref(folder, name, "vae", ("vae",))),
            )
        reasons.append(f"{name}: {reason}")
    raise ValueError(f"checkpoint {folder.name}: no model family fits ({'; '.join(reasons)})")


def _ref(folder: Path, family: str, part: str, subfolders: tuple[str, ...]) -> WeightsRef:
    digest = hashlib.blake2b(digest_size=16)
    for subfolder in subfolders:
        for file in sorted((folder / subfolder).iterdir()):
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
    """All weights of one part of a diffusers folder: one safetensors file, or the shards that an index names."""
    for stem in ("diffusion_pytorch_model", "model"):
        for variant in ("", ".fp16"):
            file = folder / f"{stem}{variant}.safetensors"
            if file.is_file():
                tensors: dict[str, Tensor] = load_file(file)
                return tensors
            index = folder / f"{stem}.safetensors.index{variant}.json"
            if index.is_file():
                shards = sorted(set(read_json(index)["weight_map"].values()))
                if any(Path(shard).name != shard for shard in shards):
                    raise ValueError(f"{index}: plain file names are wanted, {shards} given")
                return {name: tensor for shard in shards for name, tensor in load_file(folder / shard).items()}
    found = ", ".join(sorted(file.name for file in folder.iterdir())) or "nothing"
    raise FileNotFoundError(f"{folder}: weights as safetensors are wanted (pickled .bin and .pt files are not opened), {found} found")


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
    # a copy: the file may be rewritten while the module lives
    module.load_state_dict({name: tensor.to(dtype, copy=True) for name, tensor in tensors.items()}, assign=True)
    return module


_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def modern_vae_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """VAE weights under today's names; diffusers before 0.17 called the attention projections query, key, value and proj_attn."""
    pattern = re.compile(r"(attentions\.\d+)\.(query|key|value|proj_attn)\.")
    return {pattern.sub(lambda m: f"{m[1]}.{_OLD_ATTENTION[m[2]]}.", name): tensor for name, tensor in tensors.items()}
