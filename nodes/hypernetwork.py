"""Hypernetworks of AUTOMATIC1111's web UI: what attention reads of the text and the picture, moved by small networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from diffusion.hypernetwork import Hypernetwork, read_hypernetwork
from diffusion.values import Model
from graph_engine.errors import NodeError
from graph_engine.node import File, Node
from nodes.params import number

if TYPE_CHECKING:
    from graph_engine.context import Context


class HypernetworkLoader(Node, category="loaders", title="Load Hypernetwork", aliases=("a1111", "style")):
    """A model whose attention reads what a hypernetwork makes of the text and the picture; several go one after the other."""

    model: Model
    hypernetwork_name: Annotated[str, File("hypernetworks"), Field(description="A hypernetwork made for the kind of model.")]
    strength: Annotated[float, number(-10, 10, 0.01, "How far it moves them: 0 is not at all, negative the other way.")] = 1.0

    def run(self, ctx: Context) -> Model:
        try:
            networks = read_hypernetwork(ctx.path("hypernetworks", self.hypernetwork_name))
        except (ValueError, OSError) as problem:
            raise NodeError(f"hypernetwork_name: {problem}") from problem
        return self.model.patched(Hypernetwork(networks, self.strength)) if self.strength else self.model
