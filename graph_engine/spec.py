"""The declaration of a node as plain data: what the editor, validation, the schema and the catalogue read instead of
the class.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict

from graph_engine.literal import WIDGETS, Refusal, canonical, refuse

__all__ = ["InputSpec", "NodeSpec", "OutputSpec", "Problem"]


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
        hint = "" if self.hint is None else f" - {self.hint}"
        if self.node is None:
            return f"{self.message}{hint}"
        names = [name for name in (self.class_type, self.title and f'"{self.title}"') if name]
        if self.title == self.class_type:
            names = names[:1]
        place = f"node {self.node}" + (f" ({' '.join(names)})" if names else "")
        field = "" if self.field is None else f", {self.field}"
        return f"{place}{field}: {self.message}{hint}"


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
    minimum: float | int | None = None  # inclusive, unless `above`
    maximum: float | int | None = None  # inclusive, unless `below`
    above: bool = False
    below: bool = False
    multiple_of: float | int | None = None
    step: float | int | None = None  # what the editor's arrows add
    min_length: int | None = None  # of a text, or of a list
    max_length: int | None = None
    pattern: str | None = None
    choices: tuple[Any, ...] | None = None
    folder: str | None = None  # the kind of file whose names are the choices
    embedded: dict[str, str] = {}  # names that ship with a package -> "package:relative/path"
    description: str = ""
    widget: dict[str, Any] = {}  # what only the editor reads: multiline, seed control, image upload, ...

    @property
    def is_widget(self) -> bool:
        """Whether the editor shows it as a field to fill in, rather than as a socket only."""
        return not self.list and len(self.types) == 1 and self.types[0] in WIDGETS

    def refuse(self, value: Any, choices: tuple[Any, ...] | None = None) -> Refusal | None:
        """Why a literal is not acceptable, as (code, message, wanted); None when it is. `choices` are those of a file
        input.
        """
        return refuse(self, value, choices)

    def canonical(self, value: Any) -> Any:
        """The one form of an acceptable literal, so that `20`, `20.0` and an omitted default mean the same run."""
        return canonical(self, value)


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

    @cached_property
    def by_name(self) -> dict[str, InputSpec]:
        """The inputs by name, in their order."""
        return {entry.name: entry for entry in self.inputs}

    @cached_property
    def generic(self) -> bool:
        """Whether it has outputs whose type its inputs settle, or inputs that must agree."""
        return any(e.variable for e in self.inputs) or any(e.variable for e in self.outputs)

    def input(self, name: str) -> InputSpec | None:
        return self.by_name.get(name)

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
