"""The help page of a node type, written from its declaration."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graph_engine.spec import InputSpec, NodeSpec, OutputSpec
from graph_engine.suggest import show

__all__ = ["page"]

_MOST_CHOICES = 40


def page(spec: NodeSpec) -> str:
    """The page as Markdown: what the node does, its inputs with defaults and bounds, its outputs."""
    parts = [f"# {_plain(spec.title or spec.type)}", spec.description]
    if spec.inputs:
        parts += ["## Inputs", _table(("input", "type", "default", "meaning"), map(_input, spec.inputs))]
    if spec.outputs:
        parts += ["## Outputs", _table(("output", "type", "meaning"), map(_output, spec.outputs))]
    parts += ["## In a file", f"`class_type`: `{spec.type}`, in the category {spec.category}."]
    if spec.aliases:
        parts.append(f"Also found as: {', '.join(map(_plain, spec.aliases))}.")
    notes = (
        (spec.output, "It has effects, such as a file, and runs although nothing is linked to it."),
        (spec.deprecated, "It is kept for old graphs; new ones should not use it."),
        (spec.experimental, "It may still change."),
    )
    parts += [note for holds, note in notes if holds]
    return "\n\n".join(part for part in parts if part) + "\n"


def _input(spec: InputSpec) -> tuple[str, ...]:
    meaning = [spec.description, _bounds(spec), _choices(spec)]
    if spec.lazy:
        meaning.append("Computed only when it is needed.")
    default = "" if spec.required else "nothing" if spec.default is None else f"`{show(spec.default)}`"
    return f"`{spec.name}`", _type(spec), default, " ".join(filter(None, meaning))


def _output(spec: OutputSpec) -> tuple[str, ...]:
    return f"`{spec.name}`", _type(spec), spec.description


def _type(spec: InputSpec | OutputSpec) -> str:
    named = "any" if "*" in spec.types else " or ".join(spec.types)
    return f"list of {named}" if spec.list else named


def _bounds(spec: InputSpec) -> str:
    parts = []
    if spec.minimum is not None:
        parts.append(f"{'above' if spec.above else 'from'} {spec.minimum}")
    if spec.maximum is not None:
        parts.append(f"{'below' if spec.below else 'to'} {spec.maximum}")
    if spec.multiple_of is not None:
        parts.append(f"in multiples of {spec.multiple_of}")
    return f"{' '.join(parts).capitalize()}." if parts else ""


def _choices(spec: InputSpec) -> str:
    if spec.folder is not None:
        return f"A file in `{spec.folder}`."
    if not spec.choices:
        return ""
    named = [f"`{choice}`" for choice in spec.choices[:_MOST_CHOICES]]
    more = len(spec.choices) - len(named)
    return f"One of {', '.join(named)}{f' and {more} more' if more else ''}."


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _plain(text: str) -> str:
    """A text whose Markdown signs stand for themselves."""
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>#|" else letter for letter in text)
