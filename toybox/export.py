"""From a run folder to the diffusers folder that ships: half-precision safetensors and the configurations beside them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
from torch import nn

from toybox import tokenizer as tokens
from toybox.generator import Generator
from toybox.preview import write_linear_colors


def scheduler() -> DDIMScheduler:
    """Stable Diffusion 1.x's schedule."""
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1
    )  # fmt: skip


def export(model: Generator, vae: AutoencoderKL, folder: Path) -> None:
    """Write the folder that `StableDiffusionPipeline.from_pretrained` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    write_linear_colors(vae, folder)  # while the weights are whole
    tokenizer = tokens.build()
    pipeline = StableDiffusionPipeline(
        vae=_half(vae),
        text_encoder=_half(model.text),
        tokenizer=tokenizer,
        unet=_half(model.unet),
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    tokens.save(tokenizer, folder / "tokenizer")
    # transformers would go by the files' half precision, diffusers loads single: let them agree
    config = folder / "text_encoder" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "float32"}, indent=2) + "\n")


def _half(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        parameter.data = parameter.data.to(torch.float16, memory_format=torch.contiguous_format)
    return module
