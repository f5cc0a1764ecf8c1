"""What the editor is told about node types: their sockets, widgets, bounds, choices and texts, as plain JSON."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graph_engine.files import Folders
from graph_engine.literal import WIDGETS
from graph_engine.spec import InputSpec, NodeSpec

__all__ = ["CORE", "Choices", "Definitions", "definition", "definitions"]

Choices = Callable[[InputSpec], Sequence[Any] | None]

CORE = "core"  # the package of node types that the editor shows as its own, not as an extension
_SAFE = 2**53 - 1  # the largest whole number that a browser counts to
_LARGEST = sys.float_info.max
_SLACK = 1e-9  # 0.7 counts as 7 times 0.1
_STEPS: dict[str, float | int] = {"INT": 1, "FLOAT": 0.01}
_SEEDS = ("seed", "noise_seed")  # the editor lets these change after each run unless told not to
_OURS = ("upload",)  # hints of ours that the editor has another word for


def definition(spec: NodeSpec, choices: Choices) -> dict[str, Any]:
    """One node type as the editor reads it; `choices` gives the names that a file input offers, None for none.

    The widgets stand in the order of the declared inputs, and that order is how a saved graph lists their values.
    """
    sections: dict[str, dict[str, Any]] = {"required": {}, "optional": {}}
    for entry in spec.inputs:
        sections[_section(entry)][entry.name] = _input(entry, choices)
    return {
        "name": spec.type,
        "display_name": spec.title or spec.type,
        "description": spec.description,
        "category": spec.category,
        "python_module": python_module(spec),
        "input": sections,
        "input_order": {section: list(inputs) for section, inputs in sections.items()},
        "is_input_list": any(entry.list for entry in spec.inputs),
        "output": [",".join(made.types) for made in spec.outputs],
        "output_name": [made.name for made in spec.outputs],
        "output_is_list": [made.list for made in spec.outputs],
        "output_tooltips": [made.description or None for made in spec.outputs],
        "output_node": spec.output,
        "search_aliases": list(spec.aliases),
        "deprecated": spec.deprecated,
        "experimental": spec.experimental,
    }


def definitions(specs: Mapping[str, NodeSpec], folders: Folders) -> dict[str, dict[str, Any]]:
    """All node types as the editor reads them, by type, in the order of their categories; file inputs list what is in the
    folders now.
    """
    ordered = sorted(specs.items(), key=lambda item: item[1].category.casefold())
    return {type: definition(spec, folders.choices) for type, spec in ordered}


class Definitions:
    """The definitions of a catalogue, made anew only when the files that inputs choose from have changed."""

    def __init__(self, specs: Mapping[str, NodeSpec], folders: Folders) -> None:
        self._specs = specs
        self._folders = folders
        self._kinds = sorted({entry.folder for spec in specs.values() for entry in spec.inputs if entry.folder is not None})
        self._made: _Made | None = None

    def __call__(self) -> dict[str, dict[str, Any]]:
        """The definitions by type: the same object as long as nothing has changed, so do not write into it."""
        return self._now().definitions

    def encoded(self) -> tuple[bytes, str]:
        """The definitions as JSON, and a short text that is another one when they are."""
        made = self._now()
        return made.text, made.tag

    def _now(self) -> _Made:
        there = [self._folders.list(kind) for kind in self._kinds]
        if self._made is None or self._made.files != there:
            found = definitions(self._specs, self._folders)
            text = json.dumps(found, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
            self._made = _Made(there, found, text, hashlib.blake2b(text, digest_size=12).hexdigest())
        return self._made


@dataclass(frozen=True, slots=True)
class _Made:
    files: list[tuple[str, ...]]
    definitions: dict[str, dict[str, Any]]
    text: bytes
    tag: str


def python_module(spec: NodeSpec) -> str:
    """The module by which the editor tells its own node types from those of an extension, and names the extension."""
    if spec.package in ("", CORE):
        return f"nodes.{spec.module.rpartition('.')[2]}".rstrip(".")
    return f"custom_nodes.{spec.package}"


def _section(spec: InputSpec) -> str:
    """A widget always holds a value, so it is required; a socket is not when nothing need be linked to it."""
    return "required" if _is_field(spec) or (spec.required and not spec.optional) else "optional"


def _is_field(spec: InputSpec) -> bool:
    """Whether there is a field to fill in: not for a value that is absent unless it is linked."""
    return spec.is_widget and not (spec.optional and spec.default is None)


def _input(spec: InputSpec, choices: Choices) -> list[Any]:
    kind = ",".join(spec.types)
    options: dict[str, Any] = {name: value for name, value in spec.widget.items() if name not in _OURS}
    if spec.description:
        options["tooltip"] = spec.description
    if spec.lazy:
        options["lazy"] = True
    if kind not in WIDGETS:
        return [kind, options]
    if not _is_field(spec):
        options["forceInput"] = True
    elif not spec.required and spec.default is not None:
        options["default"] = spec.default
    if kind == "COMBO":
        if spec.widget.get("upload") and spec.folder == "input":
            options |= {"image_upload": True, "image_folder": "input"}
        return [list((choices(spec) if spec.folder is not None else spec.choices) or ()), options]
    if kind in _STEPS:
        low, high, step = _range(spec, kind)
        number = float if kind == "FLOAT" else int
        options |= {"min": number(low), "max": number(high), "step": number(step)}
        if _is_field(spec) and "default" not in options and not low <= 0 <= high:
            options["default"] = low if low > 0 else high  # the editor would take 0
        if kind == "INT" and spec.name in _SEEDS:
            options.setdefault("control_after_generate", False)
    return [kind, options]


def _range(spec: InputSpec, kind: str) -> tuple[float, float, float]:
    """Bounds and step of a number: always there, because the editor would take 0 and 2048 for absent ones.

    The editor's bounds are inclusive, and its whole numbers count in steps from the lower one, so that a bound which is
    no acceptable value is moved inwards to one that is.
    """
    of = spec.multiple_of
    step = spec.step or of or _STEPS[kind]
    if of is not None:
        step = of * max(1, round(step / of))
    widest = _SAFE // step * step if kind == "INT" else _LARGEST
    low = -widest if spec.minimum is None else spec.minimum
    high = widest if spec.maximum is None else spec.maximum
    if spec.above:
        low = _inwards(low, step, spec.default, high)
    if spec.below:
        high = _inwards(high, -step, spec.default, low)
    if of is not None:
        if abs(low) < widest:
            low = max(low, of * math.ceil(low / of - _SLACK))
        if abs(high) < widest:
            high = min(high, of * math.floor(high / of + _SLACK))
    return low, high, step


def _inwards(bound: float, step: float, default: Any, other: float) -> float:
    """A value beside a bound that is itself excluded: a step away, but no further than the default or the middle."""
    values = [bound + step, (bound + other) / 2]
    if isinstance(default, (int, float)):
        values.append(default)
    return min(values, key=lambda value: abs(value - bound))
