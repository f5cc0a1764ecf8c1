"""Plain values as nodes, and a look at any value."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field
from torch import Tensor

from graph_engine.node import Node
from nodes.params import number

if TYPE_CHECKING:
    from graph_engine.context import Context

LARGEST = 2**63 - 1


class PrimitiveInt(Node, category="utilities/primitive", title="Int", aliases=("number", "integer")):
    """A whole number for several inputs."""

    value: Annotated[int, number(-LARGEST, LARGEST, 1, "The number.", control_after_generate="fixed")]

    def run(self, ctx: Context) -> int:
        return self.value


class PrimitiveFloat(Node, category="utilities/primitive", title="Float", aliases=("number", "decimal")):
    """A number for several inputs."""

    value: Annotated[float, number(-LARGEST, LARGEST, 0.1, "The number.")]

    def run(self, ctx: Context) -> float:
        return self.value


class PrimitiveString(Node, category="utilities/primitive", title="String", aliases=("text",)):
    """A text of one line for several inputs."""

    value: Annotated[str, Field(description="The text.")]

    def run(self, ctx: Context) -> str:
        return self.value


class PrimitiveStringMultiline(Node, category="utilities/primitive", title="String (Multiline)", aliases=("text",)):
    """A text of several lines for several inputs."""

    value: Annotated[str, Field(json_schema_extra={"multiline": True}, description="The text.")]

    def run(self, ctx: Context) -> str:
        return self.value


class PrimitiveBoolean(Node, category="utilities/primitive", title="Boolean", aliases=("bool", "switch", "checkbox")):
    """True or false for several inputs."""

    value: Annotated[bool, Field(description="On or off.")]

    def run(self, ctx: Context) -> bool:
        return self.value


class PreviewAny(Node, category="utilities", title="Preview Any", output=True, aliases=("show text", "print", "debug")):
    """Show any value as text."""

    source: Annotated[Any, Field(description="Numbers and texts are shown as they are, everything else as a description.")]

    def run(self, ctx: Context) -> None:
        ctx.show(text=describe(self.source))


def describe(value: Any) -> str:
    """A value as text: texts and numbers as they are, JSON for what has one, tensors by shape, other values field by field."""
    if isinstance(value, str):
        return value
    if isinstance(value, (bool, int, float)):
        return str(value)
    try:
        return json.dumps(value, indent=4, ensure_ascii=False)
    except (TypeError, ValueError):
        return _outline(value)


def _outline(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return f"{type(value).__name__}({', '.join(f'{f.name}={_outline(getattr(value, f.name))}' for f in dataclasses.fields(value))})"
    if isinstance(value, (list, tuple)):
        shown = [_outline(item) for item in value[:8]] + (["..."] if len(value) > 8 else [])
        return f"[{', '.join(shown)}]"
    return repr(value)
