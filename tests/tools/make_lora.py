"""Write one random LoRA in several key layouts, for tests of loaders: the same numbers under every name.

    python tests/tools/make_lora.py DIFFUSERS_FOLDER OUT --layout LAYOUT [--rank 4] [--seed 0]

LAYOUT: kohya, ldm, diffusers, diffusers-mid, diffusers-old, peft or comfy.

OUT is a safetensors file, for peft a folder. Ranks are the same everywhere, alphas differ from module to module.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

ALPHAS = (4.0, 1.0, 2.0, 3.0)
UNET = r"attn\d\.(to_[qkv]|to_out\.0)|ff\.net\.(0\.proj|2)|proj_(in|out)|conv1|conv2|downsamplers\.0\.conv|upsamplers\.0\.conv"
TEXT = r"self_attn\.(q|k|v|out)_proj|mlp\.fc[12]"

COMPONENTS = {"unet": "diffusion_pytorch_model", "text_encoder": "model", "text_encoder_2": "model"}
DIFFUSERS = {"unet": "unet.", "text_encoder": "text_encoder.text_model.", "text_encoder_2": "text_encoder_2.text_model."}

Factors = dict[str, tuple[Tensor, Tensor, float]]  # "unet:PATH", "text_encoder:PATH" or "text_encoder_2:PATH" -> up, down, alpha


def shapes_in(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights of a diffusers folder as "unet:NAME", "text_encoder:NAME" and "text_encoder_2:NAME" (without text_model)."""
    shapes = {}
    for part, stem in COMPONENTS.items():
        if not (folder / part).is_dir():
            continue
        with safe_open(folder / part / f"{stem}.safetensors", "pt") as file:
            for name in file.keys():  # noqa: SIM118
                shapes[f"{part}:{name.removeprefix('text_model.')}"] = tuple(file.get_slice(name).get_shape())
    return shapes


def make(shapes: Mapping[str, tuple[int, ...]], rank: int = 4, seed: int = 0, scale: float = 0.3, only: str = "") -> Factors:
    """Random factors for the attention, feed-forward, projection and convolution weights among these."""
    generator = torch.Generator().manual_seed(seed)
    factors: Factors = {}
    for name, shape in sorted(shapes.items()):
        part, _, path = name.partition(":")
        if (
            not path.endswith(".weight")
            or not path.startswith(only)
            or not re.search(rf"({UNET if part == 'unet' else TEXT})\.weight$", path)
        ):
            continue
        out, *inner = shape
        down = torch.randn(rank, *inner, generator=generator) / torch.tensor(inner).prod().sqrt()
        up = torch.randn(out, rank, *(1 for _ in inner[1:]), generator=generator) * scale
        factors[f"{part}:{path.removesuffix('.weight')}"] = (up, down, ALPHAS[len(factors) % len(ALPHAS)])
    return factors


def kohya(factors: Factors, rename: Mapping[str, str] | None = None) -> dict[str, Tensor]:
    """lora_unet_…, lora_te_text_model_…, of two encoders lora_te1_… and lora_te2_…; `rename`: the U-Net under original names."""
    two = any(name.startswith("text_encoder_2:") for name in factors)
    starts = {"unet": "unet", "text_encoder": "te1" if two else "te", "text_encoder_2": "te2"}
    tensors = {}
    for name, (up, down, alpha) in factors.items():
        part, _, path = name.partition(":")
        path = (rename or {}).get(path, path) if part == "unet" else f"text_model.{path}"
        base = f"lora_{starts[part]}_{path.replace('.', '_')}"
        tensors |= {f"{base}.lora_up.weight": up, f"{base}.lora_down.weight": down, f"{base}.alpha": torch.tensor(alpha)}
    return tensors


def folded(factors: Factors, up: str, down: str, prefixes: Mapping[str, str], rename: Mapping[str, str] | None = None) -> dict[str, Tensor]:
    """PREFIX.PATH.END with alpha / rank multiplied into up, for layouts that have no alpha."""
    tensors = {}
    for name, (b, a, alpha) in factors.items():
        part, _, path = name.partition(":")
        base = f"{prefixes[part]}{(rename or {}).get(path, path) if part == 'unet' else path}"
        tensors |= {f"{base}.{up}": b * (alpha / len(a)), f"{base}.{down}": a}
    return tensors


def diffusers(factors: Factors) -> dict[str, Tensor]:
    """What save_lora_weights writes."""
    return folded(factors, "lora_B.weight", "lora_A.weight", DIFFUSERS)


def diffusers_mid(factors: Factors) -> dict[str, Tensor]:
    """diffusers 0.17 to 0.20."""
    unet = {name: value for name, value in factors.items() if name.startswith("unet")}
    text = {name: value for name, value in factors.items() if not name.startswith("unet")}
    tensors = folded(unet, "lora.up.weight", "lora.down.weight", DIFFUSERS)
    return tensors | folded(text, "lora_linear_layer.up.weight", "lora_linear_layer.down.weight", DIFFUSERS)


def diffusers_old(factors: Factors) -> dict[str, Tensor]:
    """Attention processors of the U-Net; holds attention weights only."""
    tensors = {}
    for key, tensor in folded(factors, "up.weight", "down.weight", {**DIFFUSERS, "unet": ""}).items():
        match = re.fullmatch(r"(.+\.attn\d)\.(to_[qkv]|to_out)(?:\.0)?\.(up|down)\.weight", key)
        if match:
            tensors[f"{match[1]}.processor.{match[2]}_lora.{match[3]}.weight"] = tensor
    return tensors


def comfy(factors: Factors, rename: Mapping[str, str]) -> dict[str, Tensor]:
    """Names of the original code with dots; kohya's fields."""
    prefixes = {part: f"text_encoders.clip_{x}.transformer.text_model." for part, x in (("text_encoder", "l"), ("text_encoder_2", "g"))}
    prefixes["unet"] = "diffusion_model."
    return folded(factors, "lora_up.weight", "lora_down.weight", prefixes, rename)


def write_peft(factors: Factors, folder: Path) -> None:
    """adapter_model.safetensors without alphas, and adapter_config.json with them."""
    folder.mkdir(parents=True, exist_ok=True)
    prefixes = {"unet": "base_model.model.", "text_encoder": "base_model.model.text_model."}
    tensors, pattern = {}, {}
    for name, (up, down, alpha) in factors.items():
        part, _, path = name.partition(":")
        tensors |= {f"{prefixes[part]}{path}.lora_A.weight": down, f"{prefixes[part]}{path}.lora_B.weight": up}
        if alpha != ALPHAS[0]:
            pattern[path] = alpha
    rank = len(next(iter(factors.values()))[1])
    save_file(contiguous(tensors), folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": ALPHAS[0], "alpha_pattern": pattern, "use_rslora": False}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def ldm_names(paths: Iterable[str]) -> dict[str, str]:
    from diffusion.lora.ldm import ldm_names

    return ldm_names(paths)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--layout", default="kohya")
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    shapes = shapes_in(given.folder)
    factors = make(shapes, given.rank, given.seed)
    if given.layout == "peft":
        write_peft(factors, given.out)
        return
    rename = ldm_names(name.partition(":")[2].rpartition(".")[0] for name in shapes if name.startswith("unet"))
    layouts = {
        "kohya": lambda: kohya(factors),
        "ldm": lambda: kohya(factors, rename),
        "diffusers": lambda: diffusers(factors),
        "diffusers-mid": lambda: diffusers_mid(factors),
        "diffusers-old": lambda: diffusers_old(factors),
        "comfy": lambda: comfy(factors, rename),
    }
    if given.layout not in layouts:
        parser.error(f"--layout: one of {', '.join(layouts)}, peft is wanted, {given.layout!r} given")
    save_file(contiguous(layouts[given.layout]()), given.out)


if __name__ == "__main__":
    main()
