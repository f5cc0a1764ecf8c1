"""Node types as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from graph_engine import Folders
from graph_engine.spec import InputSpec, NodeSpec

__all__ = ["details", "is_called", "listing"]


def listing(specs: Iterable[NodeSpec]) -> RenderableType:
    """Node types by category, with the first sentence of each description."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    category = None
    for spec in sorted(specs, key=lambda spec: (spec.category, spec.type)):
        if spec.category != category:
            if category is not None:
                table.add_row()
            category = spec.category
            table.add_row(f"[bold]{escape(category)}[/]")
        table.add_row(
            f"  {escape(spec.type)}", escape(spec.description.split("\n\n")[0].replace("\n", " ")), style="dim" if spec.deprecated else ""
        )
    return table


def is_called(spec: NodeSpec, word: str) -> bool:
    """Whether a word is in a node type's name, its title, or what else it is looked for as."""
    return any(word.casefold() in name.casefold() for name in (spec.type, spec.title or "", *spec.aliases))


def details(spec: NodeSpec, folders: Folders) -> RenderableType:
    """One node type: what it says of itself, its inputs with types, defaults and bounds, and its outputs."""
    inputs = Table("input", "type", "default", "bounds or choices", "meaning", box=None, pad_edge=False, title_justify="left")
    for entry in spec.inputs:
        inputs.add_row(
            entry.name,
            _type(entry),
            "" if entry.required else repr(entry.default),
            escape(_range(entry, folders)),
            escape(entry.description),
        )
    outputs = Table("output", "type", box=None, pad_edge=False)
    for number, output in enumerate(spec.outputs):
        outputs.add_row(f"{number} {output.name}", output.types[0] + ("[]" if output.list else ""))
    head = Text.assemble((spec.type, "bold"), f"  {spec.category}, version {spec.version}", "\n", spec.description, "\n")
    return Group(head, inputs, "", outputs) if spec.outputs else Group(head, inputs)


def _type(entry: InputSpec) -> str:
    marks = ("[]" if entry.list else "") + (" (lazy)" if entry.lazy else "") + (" (optional)" if entry.optional else "")
    return escape(" or ".join(entry.types) + marks)


def _range(entry: InputSpec, folders: Folders) -> str:
    if entry.folder is not None:
        names = folders.choices(entry)
        return f"{', '.join(names[:8])}{' …' if len(names) > 8 else ''} ({entry.folder})"
    if entry.choices is not None:
        return ", ".join(map(str, entry.choices))
    if entry.minimum is None and entry.maximum is None:
        return ""
    return f"{entry.minimum if entry.minimum is not None else ''} … {entry.maximum if entry.maximum is not None else ''}"
