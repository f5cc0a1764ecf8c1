"""Models from files."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from diffusion.loading import open_checkpoint
from diffusion.values import VAE, Clip, Model
from graph_engine.errors import NodeError
from graph_engine.node import Node
from nodes.params import EMBEDDED, CheckpointFile

if TYPE_CHECKING:
    from graph_engine.context import Context


class CheckpointLoaderSimple(Node, category="loaders", title="Load Checkpoint", aliases=("model", "checkpoint")):
    """Open a model with its text encoder and VAE; weights are read when they are first used."""

    ckpt_name: CheckpointFile

    class Out(NamedTuple):
        model: Model
        clip: Clip
        vae: VAE

    def run(self, ctx: Context) -> Out:
        try:
            return self.Out(*open_checkpoint(ctx.path("checkpoints", self.ckpt_name, EMBEDDED)))
        except (ValueError, OSError) as problem:
            raise NodeError(f"ckpt_name: {problem}") from problem
