"""Two masks combined by arithmetic or logic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from torch import Tensor

from diffusion.values import Mask
from graph_engine.node import Node
from nodes.params import ImageOffset

if TYPE_CHECKING:
    from graph_engine.context import Context


def combined(a: Tensor, b: Tensor, operation: str) -> Tensor:
    """a and b by operation; the logical ones act on values rounded to 0 or 1. The result lies from 0 to 1."""
    if operation in ("and", "or", "xor"):
        p, q = a.round().bool(), b.round().bool()
        return {"and": p & q, "or": p | q, "xor": p ^ q}[operation].to(a)
    return {"multiply": a * b, "add": a + b, "subtract": a - b}[operation].clamp(0, 1)


class MaskComposite(Node, category="mask", title="Composite Masks", aliases=("combine masks", "union", "intersection")):
    """Combine a mask with another one laid over it at a place; what sticks out is cut off."""

    destination: Mask
    source: Mask
    x: ImageOffset = 0
    y: ImageOffset = 0
    operation: Annotated[
        Literal["multiply", "add", "subtract", "and", "or", "xor"],
        Field(description="What happens where both lie."),
    ] = "multiply"

    def run(self, ctx: Context) -> Mask:
        out = self.destination.values.clone()
        source = self.source.values.to(out)
        if source.shape[0] not in (1, out.shape[0]):
            raise ValueError(f"source: a batch of 1 or {out.shape[0]} masks is wanted as in destination, {source.shape[0]} given")
        under = out[:, self.y : self.y + source.shape[1], self.x : self.x + source.shape[2]]
        under.copy_(combined(under, source[:, : under.shape[1], : under.shape[2]], self.operation))
        return Mask(out.clamp(0, 1))
