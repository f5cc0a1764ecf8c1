"""ComfyUI's name for choosing between two inputs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import Field

from graph_engine.node import Node
from graph_engine.sockets import Lazy

if TYPE_CHECKING:
    from graph_engine.context import Context

    T = Any
else:
    T = TypeVar("T")


class ComfySwitchNode(Node, category="flow", title="Switch (ComfyUI)", aliases=("if", "choose", "condition")):
    """One of two inputs; the other is not computed."""

    switch: Annotated[bool, Field(description="Whether to take `on_true`.")]
    on_false: Annotated[Lazy[T], Field(description="What comes out when the switch is off.")]
    on_true: Annotated[Lazy[T], Field(description="What comes out when the switch is on.")]

    def wants(self) -> Iterable[str]:
        return ["on_true" if self.switch else "on_false"]

    def run(self, ctx: Context) -> T:
        return self.on_true if self.switch else self.on_false
