"""Models into files, with the weight patches of LoRAs and merges worked in. Saved as half precision where nothing is lost by it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, BinaryIO

from pydantic import Field

from diffusion.files import write_tensors
from diffusion.saving import clip_tensors, metadata, model_tensors, tower_files, vae_tensors
from diffusion.values import VAE, Clip, Model
from graph_engine.errors import NodeError
from graph_engine.node import Node
from nodes.params import FilenamePrefix

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from graph_engine.context import Context

AModel = Annotated[Model, Field(description="The denoiser.")]
AClip = Annotated[Clip, Field(description="The text encoder.")]
AVae = Annotated[VAE, Field(description="The VAE.")]


class CheckpointSave(Node, category="advanced/model_merging", title="Save Checkpoint", output=True):
    """Write model, text encoder and VAE as one safetensors checkpoint."""

    model: AModel
    clip: AClip
    vae: AVae
    filename_prefix: FilenamePrefix = "checkpoints/ComfyUI"

    def run(self, ctx: Context) -> None:
        try:
            tensors = model_tensors(self.model, ctx.device) | clip_tensors(self.clip, ctx.device)
            tensors |= vae_tensors(self.vae, ctx.device, whole=True)
        except ValueError as problem:
            raise NodeError(str(problem)) from problem
        _save(ctx, self.filename_prefix, tensors, metadata(self.model))


class ModelSave(Node, category="advanced/model_merging", title="Save Model", output=True):
    """Write a denoiser alone."""

    model: AModel
    filename_prefix: FilenamePrefix = "diffusion_models/ComfyUI"

    def run(self, ctx: Context) -> None:
        try:
            tensors = model_tensors(self.model, ctx.device)
        except ValueError as problem:
            raise NodeError(f"model: {problem}") from problem
        _save(ctx, self.filename_prefix, tensors, metadata(self.model))


class CLIPSave(Node, category="advanced/model_merging", title="Save CLIP", output=True):
    """Write the text encoders, one file each: `_clip_l`, `_clip_g`, …"""

    clip: AClip
    filename_prefix: FilenamePrefix = "clip/ComfyUI"

    def run(self, ctx: Context) -> None:
        try:
            files = tower_files(self.clip, ctx.device)
        except ValueError as problem:
            raise NodeError(f"clip: {problem}") from problem
        for name, tensors in files.items():
            _save(ctx, f"{self.filename_prefix}_clip_{name}", tensors)


class VAESave(Node, category="advanced/model_merging", title="Save VAE", output=True):
    """Write a VAE alone."""

    vae: AVae
    filename_prefix: FilenamePrefix = "vae/ComfyUI_vae"

    def run(self, ctx: Context) -> None:
        try:
            tensors = vae_tensors(self.vae, ctx.device, whole=False)
        except ValueError as problem:
            raise NodeError(f"vae: {problem}") from problem
        _save(ctx, self.filename_prefix, tensors)


def _save(ctx: Context, prefix: str, tensors: dict[str, Tensor], told: Mapping[str, str] = {}) -> None:
    about = {"format": "pt", **told, **({"prompt": json.dumps(ctx.workflow)} if ctx.workflow else {})}

    def write(file: BinaryIO) -> None:
        write_tensors(file, tensors, about)

    ctx.save(prefix, ".safetensors", write, media="application/octet-stream")
