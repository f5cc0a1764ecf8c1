"""The declaration of a node as plain data: what the editor, validation, the schema and the catalogue read instead of the class."""

from __future__ import annotations

import math
from typing import Any

from pydantic import BaseModel, ConfigDict

from graph_engine.sockets import ANY

__all__ = ["InputSpec", "NodeSpec", "OutputSpec", "Problem"]

_WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}


class Problem(BaseModel):
    """One finding about a workflow: where it is, what came, what is wanted and what may help."""

    model_config = ConfigDict(frozen=True)

    code: str
    message: str
    node: str | None = None
    title: str | None = None
    class_type: str | None = None
    field: str | None = None
    got: Any = None
    wanted: Any = None
    hint: str | None = None

    def __str__(self) -> str:
        place = "" if self.node is None else f"node {self.node} ({self.title or self.class_type})"
        field = "" if self.field is None else f", field {self.field}"
        hint = "" if self.hint is None else f" - {self.hint}"
        return f"{place}{field}: {self.message}{hint}" if place else f"{self.message}{hint}"


class Spec(BaseModel):
    model_config = ConfigDict(frozen=True)


class InputSpec(Spec):
    """One input: the link types it takes, and for a widget its default, bounds and choices."""

    name: str
    types: tuple[str, ...]
    list: bool = False
    optional: bool = False  # may be None
    required: bool = True  # has no default
    lazy: bool = False
    variable: str | None = None
    default: Any = None
    minimum: float | int | None = None  # inclusive
    maximum: float | int | None = None  # inclusive
    step: float | int | None = None
    choices: tuple[Any, ...] | None = None
    folder: str | None = None  # the kind of file whose names are the choices
    embedded: dict[str, str] = {}  # names that ship with a package -> "package:relative/path"
    description: str = ""
    widget: dict[str, Any] = {}  # what only the editor reads: multiline, seed control, image upload, ...

    @property
    def is_widget(self) -> bool:
        return not self.list and len(self.types) == 1 and self.types[0] in _WIDGETS

    def refuse(self, value: Any, choices: tuple[Any, ...] | None = None) -> tuple[str, str, Any] | None:
        """Why a literal is not acceptable, as (code, message, wanted); None when it is."""
        kind = self.types[0] if self.is_widget else None
        if value is None and self.optional:
            return None
        if kind is None:
            return self._refuse_composite(value)
        if kind == "COMBO" or self.folder is not None:
            allowed = choices if choices is not None else self.choices
            if allowed is not None and value not in allowed:
                return "value_not_in_list", f"{value!r} is not one of the choices", [*allowed]
            return None
        if not _is_kind(value, kind):
            return "wrong_type", f"{value!r} is not {_ARTICLE[kind]}", kind
        if kind in ("INT", "FLOAT"):
            return self._refuse_number(value)
        return None

    def _refuse_composite(self, value: Any) -> tuple[str, str, Any] | None:
        scalar = next((name for name in self.types if name in _WIDGETS), None)
        if ANY in self.types:
            return None
        if scalar is not None and self.list and isinstance(value, list):
            item = self.model_copy(update={"list": False, "types": (scalar,)})
            return next((found for found in map(item.refuse, value) if found), None)
        if scalar is not None and not self.list and any(_is_kind(value, name) for name in self.types if name in _WIDGETS):
            return None
        wanted = " or ".join(self.types)
        return "socket_needs_link", f"{value!r} given where a link carrying {wanted} is wanted", wanted

    def _refuse_number(self, value: float) -> tuple[str, str, Any] | None:
        if isinstance(value, float) and not math.isfinite(value):
            return "wrong_type", f"{value!r} is not a finite number", "a finite number"
        if self.minimum is not None and value < self.minimum:
            return "value_smaller_than_min", f"{value!r} is smaller than {self.minimum}", f">= {self.minimum}"
        if self.maximum is not None and value > self.maximum:
            return "value_bigger_than_max", f"{value!r} is bigger than {self.maximum}", f"<= {self.maximum}"
        return None

    def canonical(self, value: Any) -> Any:
        """The one form of an acceptable literal, so that `20` and `20.0` mean the same run."""
        if self.list and isinstance(value, list):
            item = self.model_copy(update={"list": False})
            return [item.canonical(entry) for entry in value]
        if value is None or isinstance(value, str):
            return value
        if "FLOAT" in self.types and isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        if "INT" in self.types and isinstance(value, float):
            return int(value)
        return value


_ARTICLE = {"INT": "a whole number", "FLOAT": "a number", "STRING": "a text", "BOOLEAN": "true or false", "COMBO": "a choice"}


def _is_kind(value: Any, kind: str) -> bool:
    if kind == "BOOLEAN":
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    if kind == "INT":
        return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if kind == "FLOAT":
        return isinstance(value, (int, float))
    return isinstance(value, str)


class OutputSpec(Spec):
    """One output: its name, the link types it provides (its own first, then its bases'), and whether it is a list."""

    name: str
    types: tuple[str, ...]
    list: bool = False
    variable: str | None = None
    choices: tuple[Any, ...] | None = None
    description: str = ""


class NodeSpec(Spec):
    """One node type as data."""

    type: str
    version: int = 1
    title: str = ""
    category: str = ""
    description: str = ""
    package: str = ""  # the entry point it came from
    module: str = ""
    inputs: tuple[InputSpec, ...] = ()
    outputs: tuple[OutputSpec, ...] = ()
    output: bool = False  # has effects; wanted by default
    cache: bool = True
    aliases: tuple[str, ...] = ()  # search words
    deprecated: bool = False
    experimental: bool = False
    checks: bool = False  # overrides Node.check
    migrates: bool = False  # overrides Node.migrate

    def input(self, name: str) -> InputSpec | None:
        return next((found for found in self.inputs if found.name == name), None)

    def output_index(self, ref: int | str) -> int | None:
        """The position of an output given by position or name (case does not matter); None when there is none."""
        if isinstance(ref, bool):
            return None
        if isinstance(ref, int):
            return ref if 0 <= ref < len(self.outputs) else None
        names = [output.name for output in self.outputs]
        if ref in names:
            return names.index(ref)
        folded = [name.casefold() for name in names]
        return folded.index(ref.casefold()) if folded.count(ref.casefold()) == 1 else None
