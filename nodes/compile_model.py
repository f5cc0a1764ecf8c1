"""Compiling a denoiser: torch fuses what its resnets and feed-forward networks compute into fewer kernels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from diffusion.patch import ModulePatch
from diffusion.values import Model
from graph_engine.errors import NodeError
from graph_engine.node import Node

if TYPE_CHECKING:
    from graph_engine.context import Context

KINDS = 256  # of inputs that one method may be compiled for; beyond it torch goes on uncompiled


@dataclass(frozen=True, slots=True)
class Compiled(ModulePatch):
    """Modules run compiled for each shape of input; what was compiled stays with torch, and serves the next session."""

    backend: str

    @contextmanager
    def installed(self, modules: Sequence[nn.Module]) -> Iterator[None]:
        """The modules' forward compiled, and their own again on exit."""
        for module in modules:
            module.forward = torch.compile(module.forward, backend=self.backend, dynamic=False)
        try:
            with torch._dynamo.config.patch(recompile_limit=KINDS):
                yield
        finally:
            for module in modules:
                del module.forward


# node


class TorchCompileModel(Node, category="model_patches", title="Torch Compile Model", aliases=("faster", "compile", "inductor")):
    """Compile the denoiser's parts without attention; the first step of a new size takes long, the others less than before."""

    model: Model
    backend: Annotated[
        Literal["inductor", "cudagraphs"],
        Field(description="inductor writes kernels, on a CPU with a C++ compiler; cudagraphs replays those that there are, on a GPU."),
    ] = "inductor"

    def run(self, ctx: Context) -> Model:
        if self.backend == "cudagraphs" and ctx.device.torch.type != "cuda":
            raise NodeError(f"backend: cudagraphs needs a CUDA device, this is {ctx.device.torch.type}; take inductor")
        return self.model.patched(Compiled(self.backend))
