"""Latents to and from files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, BinaryIO

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from diffusion.values import Latent
from graph_engine.errors import NodeError
from graph_engine.node import File, Node
from nodes.params import FilenamePrefix

if TYPE_CHECKING:
    from graph_engine.context import Context

VERSION = "latent_format_version_0"  # present: the latent is unscaled; files from before it hold x · 0.18215
OLD_SCALE = 0.18215


class SaveLatent(Node, category="latent/files", title="Save Latent", output=True):
    """Write latents as a numbered safetensors file `.latent` into the output folder."""

    samples: Latent
    filename_prefix: FilenamePrefix = "latents/ComfyUI"

    def run(self, ctx: Context) -> None:
        tensors = {"latent_tensor": self.samples.x.cpu().contiguous(), VERSION: torch.tensor([])}
        notes = {name: json.dumps(content) for name, content in dict(ctx.extra.get("extra_pnginfo") or {}).items()}
        if ctx.workflow:
            notes["prompt"] = json.dumps(ctx.workflow)

        def write(file: BinaryIO) -> None:
            file.write(save(tensors, notes))

        ctx.save(self.filename_prefix, ".latent", write, media="application/octet-stream")


class LoadLatent(Node, category="latent/files", title="Load Latent", aliases=("open",)):
    """Latents from a file that SaveLatent wrote, in the input folder."""

    latent: Annotated[str, File("latents"), Field(description="A .latent file.")]

    def run(self, ctx: Context) -> Latent:
        try:
            tensors = load_file(ctx.path("latents", self.latent))
        except (SafetensorError, OSError) as problem:
            raise NodeError(f"latent: {self.latent!r} cannot be read: {problem}") from problem
        if "latent_tensor" not in tensors:
            raise NodeError(f"latent: {self.latent!r} has no tensor latent_tensor; a file that SaveLatent wrote is wanted")
        x = tensors["latent_tensor"].float()
        return Latent(x if VERSION in tensors else x / OLD_SCALE)
