#!/usr/bin/env python3
"""Random IP-Adapters and CLIP picture encoders in the layouts of files in use, the same bits for the same seed.

    python tests/tools/make_ip_adapter.py KIND OUT [--unet FOLDER | --model sd15|sdxl] [--reads D] [--seed N]

KIND: plain, plus, full, faceid, faceid-plus, or vision-hf, vision-openai (a picture encoder of width D).
OUT ends in .safetensors or .bin; the latter is pickled, with a table for the projector and one for the attentions.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

# widths of the cross-attentions on the way down, on the way up and in the middle, and of the text
MODELS = {
    "sd15": ([320] * 2 + [640] * 2 + [1280] * 2 + [1280] * 3 + [640] * 3 + [320] * 3 + [1280], 768),
    "sdxl": ([640] * 4 + [1280] * 20 + [1280] * 30 + [640] * 6 + [1280] * 10, 2048),
}
TOKENS, QUERIES, DEPTH, HEAD = 4, 16, 4, 64
WIDTHS = {768: 1024, 1024: 1280, 1280: 1664}  # of an encoder's states, by that of its embedding


def widths_of(shapes: Mapping[str, tuple[int, ...]]) -> tuple[list[int], int]:
    """The widths of a U-Net's cross-attentions in the order of the files, and of its text, from the shapes of diffusers' weights."""

    def order(name: str) -> list[object]:
        place = ("down_blocks", "up_blocks", "mid_block").index(name.split(".")[0])
        return [place, *map(int, re.findall(r"\.(\d+)", name))]

    names = sorted((name for name in shapes if name.endswith("attn2.to_k.weight")), key=order)
    return [shapes[name][0] for name in names], shapes[names[0]][1]


def widths_in(folder: Path) -> tuple[list[int], int]:
    """The same of the folder `unet` of a diffusers model."""
    with safe_open(folder / "diffusion_pytorch_model.safetensors", "pt") as file:
        return widths_of({name: tuple(file.get_slice(name).get_shape()) for name in file.keys()})  # noqa: SIM118


def make(kind: str, widths: Iterable[int], text: int, reads: int, *, hidden: int | None = None, seed: int = 0) -> dict[str, Tensor]:
    """The weights of an adapter by name; `reads` is the width of what its projector reads, `hidden` that inside a resampler."""
    shapes = {f"image_proj.{name}": shape for name, shape in projector(kind, text, reads, hidden or text).items()}
    for i, width in enumerate(widths):
        for name in ("to_k_ip", "to_v_ip"):
            shapes[f"ip_adapter.{2 * i + 1}.{name}.weight"] = (width, text)
            if kind.startswith("faceid"):
                shapes[f"ip_adapter.{2 * i + 1}.{name.replace('_ip', '_lora')}.down.weight"] = (4, text)
    return drawn(shapes, seed)


def projector(kind: str, text: int, reads: int, hidden: int) -> dict[str, tuple[int, ...]]:
    """Shapes of a projector's weights by name."""
    norm = {"norm.weight": (text,), "norm.bias": (text,)}
    if kind == "plain":
        return {"proj.weight": (TOKENS * text, reads), "proj.bias": (TOKENS * text,), **norm}
    if kind == "full":
        first = {"proj.0.weight": (reads, reads), "proj.0.bias": (reads,), "proj.2.weight": (text, reads), "proj.2.bias": (text,)}
        return {**first, "proj.3.weight": (text,), "proj.3.bias": (text,)}
    if kind.startswith("faceid"):
        first = {"proj.0.weight": (2 * reads, reads), "proj.0.bias": (2 * reads,)}
        last = {"proj.2.weight": (TOKENS * text, 2 * reads), "proj.2.bias": (TOKENS * text,), **norm}
        return {**first, **last, **({"perceiver_resampler.proj_in.weight": (text, reads)} if kind == "faceid-plus" else {})}
    if kind != "plus":
        raise ValueError(f"kind: plain, plus, full, faceid or faceid-plus is wanted, {kind!r} given")
    inner = max(HEAD, hidden // HEAD * HEAD)
    shapes: dict[str, tuple[int, ...]] = {"latents": (1, QUERIES, hidden), "proj_in.weight": (hidden, reads), "proj_in.bias": (hidden,)}
    shapes |= {"proj_out.weight": (text, hidden), "proj_out.bias": (text,), "norm_out.weight": (text,), "norm_out.bias": (text,)}
    for i in range(DEPTH):
        shapes |= {f"layers.{i}.0.{name}": (hidden,) for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias")}
        shapes |= {f"layers.{i}.0.to_q.weight": (inner, hidden), f"layers.{i}.0.to_kv.weight": (2 * inner, hidden)}
        shapes |= {f"layers.{i}.0.to_out.weight": (hidden, inner), f"layers.{i}.1.0.weight": (hidden,), f"layers.{i}.1.0.bias": (hidden,)}
        shapes |= {f"layers.{i}.1.1.weight": (4 * hidden, hidden), f"layers.{i}.1.3.weight": (hidden, 4 * hidden)}
    return shapes


def vision(
    layout: str, width: int, embeds: int, *, layers: int = 3, patch: int = 14, side: int = 224, seed: int = 0, prefix: str = "visual."
) -> dict[str, Tensor]:
    """The weights of a picture encoder under HF's names, or OpenAI's; the same numbers in both."""
    body = "vision_model."
    shapes: dict[str, tuple[int, ...]] = {f"{body}embeddings.class_embedding": (width,), "visual_projection.weight": (embeds, width)}
    shapes |= {f"{body}embeddings.patch_embedding.weight": (width, 3, patch, patch)}
    shapes |= {f"{body}embeddings.position_embedding.weight": ((side // patch) ** 2 + 1, width)}
    norms = [f"{body}pre_layrnorm", f"{body}post_layernorm"]
    for i in range(layers):
        layer = f"{body}encoder.layers.{i}."
        norms += [f"{layer}layer_norm1", f"{layer}layer_norm2"]
        for name in ("q", "k", "v", "out"):
            shapes |= {f"{layer}self_attn.{name}_proj.weight": (width, width), f"{layer}self_attn.{name}_proj.bias": (width,)}
        shapes |= {f"{layer}mlp.fc1.weight": (4 * width, width), f"{layer}mlp.fc1.bias": (4 * width,)}
        shapes |= {f"{layer}mlp.fc2.weight": (width, 4 * width), f"{layer}mlp.fc2.bias": (width,)}
    for name in norms:
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    weights = drawn(shapes, seed)
    return weights if layout == "hf" else openai(weights, layers, prefix)


def openai(hf: Mapping[str, Tensor], layers: int, prefix: str) -> dict[str, Tensor]:
    """The same encoder under OpenAI's names."""
    body = "vision_model."
    out = {
        "class_embedding": hf[f"{body}embeddings.class_embedding"],
        "positional_embedding": hf[f"{body}embeddings.position_embedding.weight"],
        "conv1.weight": hf[f"{body}embeddings.patch_embedding.weight"],
        "proj": hf["visual_projection.weight"].T.contiguous(),
    }
    for end in ("weight", "bias"):
        out |= {f"ln_pre.{end}": hf[f"{body}pre_layrnorm.{end}"], f"ln_post.{end}": hf[f"{body}post_layernorm.{end}"]}
        for i in range(layers):
            old, new = f"{body}encoder.layers.{i}.", f"transformer.resblocks.{i}."
            out[f"{new}attn.in_proj_{end}"] = torch.cat([hf[f"{old}self_attn.{each}_proj.{end}"] for each in "qkv"])
            out[f"{new}attn.out_proj.{end}"] = hf[f"{old}self_attn.out_proj.{end}"]
            out |= {f"{new}ln_{j}.{end}": hf[f"{old}layer_norm{j}.{end}"] for j in (1, 2)}
            out |= {f"{new}mlp.c_fc.{end}": hf[f"{old}mlp.fc1.{end}"], f"{new}mlp.c_proj.{end}": hf[f"{old}mlp.fc2.{end}"]}
    return {f"{prefix}{name}": tensor for name, tensor in out.items()}


def drawn(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """Random numbers: norms near 1, matrices that keep the size of what they multiply."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in sorted(shapes.items()):
        numbers = torch.randn(shape, generator=generator)
        if len(shape) == 1 and name.endswith("weight"):
            weights[name] = 1 + numbers / 8
        elif len(shape) == 1:
            weights[name] = numbers / 8
        else:
            weights[name] = numbers / torch.tensor(shape[1:]).prod().sqrt()
    return weights


def write(tensors: Mapping[str, Tensor], path: Path) -> Path:
    """Write weights to a file: safetensors, or a pickle with a table for each part."""
    if path.suffix == ".safetensors":
        save_file(dict(tensors), path)
    else:
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts.setdefault(part, {})[rest] = tensor
        torch.save(parts, path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind")
    parser.add_argument("out", type=Path)
    parser.add_argument("--unet", type=Path, help="the folder unet of a diffusers model")
    parser.add_argument("--model", choices=sorted(MODELS), default="sd15")
    parser.add_argument("--reads", type=int, default=1024, help="width of the embedding, or of the encoder's states")
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()
    if told.kind.startswith("vision-"):
        embeds = next((each for each, width in WIDTHS.items() if width == told.reads), told.reads)
        tensors = vision(told.kind.removeprefix("vision-"), told.reads, embeds, seed=told.seed)
    else:
        widths, text = widths_in(told.unet) if told.unet else MODELS[told.model]
        tensors = make(told.kind, widths, text, told.reads, seed=told.seed)
    write(tensors, told.out)
    sys.stdout.write(f"{told.out}: {len(tensors)} tensors, {sum(tensor.nbytes for tensor in tensors.values())} bytes\n")


if __name__ == "__main__":
    main()
