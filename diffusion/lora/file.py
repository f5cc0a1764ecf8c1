"""Adapters from files, in the key layouts of kohya, diffusers, peft, LyCORIS and ComfyUI, and from peft's folders."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from diffusion.files import open_tensors
from diffusion.lora.adapter import AdapterModule, Lora
from diffusion.lora.keys import place, split

CONFIG = "adapter_config.json"  # where peft keeps alpha
_RANKED = ("down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b")  # factors whose first dimension is the rank
_COMPONENTS = {"unet": "unet", "text_encoder": "te1", "text_encoder_2": "te2"}


def read_lora(path: str | Path) -> Lora:
    """The adapter of a safetensors file (a pickled one where allowed), or of a folder with peft's adapter_model and adapter_config.json.

    Raises ValueError, naming the file, for anything else, and naming the key for a kind of adapter that is not known.
    """
    path = Path(path)
    file = _weights_in(path) if path.is_dir() else path
    tensors, metadata = _read(file)
    beside = file.parent / CONFIG
    # a configuration beside some other file need not be about it
    own = beside.is_file() and (path.is_dir() or file.stem == "adapter_model")
    config = json_object(beside.read_text("utf-8"), f"LoRA {path.name}: {CONFIG}") if own else {}
    return parse_lora(tensors, path.name, metadata, config)


def _weights_in(folder: Path) -> Path:
    for name in ("adapter_model.safetensors", "pytorch_lora_weights.safetensors", "adapter_model.bin", "pytorch_lora_weights.bin"):
        if (folder / name).is_file():
            return folder / name
    found = ", ".join(sorted(entry.name for entry in folder.iterdir())) or "nothing"
    raise ValueError(f"LoRA {folder.name}: adapter_model.safetensors is wanted in the folder, {found} found")


def _read(path: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    try:
        file = open_tensors(path)
    except (ValueError, OSError) as problem:
        raise ValueError(f"LoRA {problem}") from problem
    # copies: the file may be rewritten while the adapter lives
    return {key: tensor.clone() for key, tensor in file.read(file.shapes).items()}, file.metadata


def parse_lora(
    tensors: Mapping[str, Tensor], name: str, metadata: Mapping[str, str] | None = None, config: Mapping[str, Any] | None = None
) -> Lora:
    """The adapter in named tensors.

    `metadata` is a safetensors file's, `config` peft's; alphas that are not among the tensors may stand there.
    """
    groups: dict[tuple[str, str], dict[str, Tensor]] = {}
    written: dict[tuple[str, str], str] = {}
    ignored = []
    for key, tensor in tensors.items():
        parts = split(key)
        if parts is None:
            ignored.append(key)
            continue
        module, field = parts
        if field == "unsupported":
            raise ValueError(f"LoRA {name}: {key} is of a kind that is not supported (OFT, BOFT, GLoRA, LoRA biases, reshaped weights)")
        if field == "magnitude":  # peft's, one number for each output in any shape
            field, tensor = "dora_scale", tensor.flatten()
        where = place(module)
        group = groups.setdefault(where, {})
        if field in group:
            raise ValueError(f"LoRA {name}: {key} and another key mean the same module {written[where]}")
        group[field] = tensor
        written.setdefault(where, module)
    if not groups:
        sample = ", ".join(list(tensors)[:5]) or "nothing"
        raise ValueError(f"LoRA {name}: keys such as X.lora_up.weight or X.lora_A.weight are wanted, found {sample}")
    configs = _configs(name, metadata or {}, config or {})
    modules = []
    for where, group in groups.items():
        alpha = group.pop("alpha", None)
        if alpha is not None and alpha.numel() != 1:
            raise ValueError(f"LoRA {name}: {written[where]}.alpha: one number is wanted, shape {tuple(alpha.shape)} given")
        scale = None if alpha is None else float(alpha.item())
        rank = next((group[field].shape[0] for field in _RANKED if field in group), None)
        if scale is None and rank is not None:
            scale = _alpha(configs.get(where[0], configs.get("", {})), written[where], rank)
        modules.append(AdapterModule(*where, written[where], tuple(group.items()), scale))
    return Lora(name, tuple(modules), tuple(ignored))


def json_object(text: str, what: str) -> dict[str, Any]:
    """A JSON object; ValueError beginning with `what` for anything else."""
    try:
        content = json.loads(text)
    except json.JSONDecodeError as problem:
        raise ValueError(f"{what}: JSON is wanted: {problem}") from problem
    if not isinstance(content, dict):
        raise ValueError(f"{what}: a JSON object is wanted, {type(content).__name__} given")
    return content


def _configs(name: str, metadata: Mapping[str, str], config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """peft's configuration for each network; "" for all. diffusers writes them into the file's metadata, with the component in front."""
    found: dict[str, Mapping[str, Any]] = {"": config} if config else {}
    if "lora_adapter_metadata" in metadata:
        entries = json_object(metadata["lora_adapter_metadata"], f"LoRA {name}: lora_adapter_metadata")
        for component, part in _COMPONENTS.items():
            own = {key.removeprefix(f"{component}."): value for key, value in entries.items() if key.startswith(f"{component}.")}
            if own:
                found[part] = own
    return found


def _alpha(config: Mapping[str, Any], module: str, rank: int) -> float | None:
    """alpha of a module by peft's rules: patterns are ends of its name; with rank-stabilised LoRA the scale is alpha / √rank."""
    alpha = config.get("lora_alpha", config.get("alpha"))
    for pattern, special in (config.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            alpha = special
            break
    if alpha is None:
        return None
    return float(alpha) * math.sqrt(rank) if config.get("use_rslora") else float(alpha)
