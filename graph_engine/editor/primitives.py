"""Primitive nodes: a value that lives in a node of its own and is written into the widgets it is linked to."""

from __future__ import annotations

import math
from typing import Any

from graph_engine.editor.fields import Field, first_choice
from graph_engine.editor.graph import Graph, Node
from graph_engine.editor.literal import absent, as_script_text

__all__ = ["apply_primitives"]


def apply_primitives(graph: Graph) -> None:
    """Write the value of each primitive node, whatever its mode, into the linked widgets (section 5.6, step 1).

    A primitive node that was saved without a type or a value takes the value of the first widget it is linked to.
    """
    linked: dict[str, list[tuple[int, Node, Field]]] = {}
    for node in graph.nodes.values():
        for at in node.agreed:
            cable, entry = node.feeds[at], node.inputs[at]
            if cable.origin in graph.nodes and graph.nodes[cable.origin].type == "PrimitiveNode" and entry.widget:
                linked.setdefault(cable.origin, []).append((cable.row, node, entry))
    for id, ends in linked.items():
        primitive = graph.nodes[id]
        ends.sort(key=lambda end: end[0])
        _row, first, shown = ends[0]
        own = primitive.saved and primitive.outputs[:1] not in ([], ["*"], [""])
        value = primitive.saved[0] if primitive.saved and own else first.values.get(shown.name)
        for _row, node, entry in ends:
            node.values[entry.name] = _fitted(entry, value)


def _fitted(entry: Field, value: Any) -> Any:
    """The value as the widget takes it: numbers rounded and kept within bounds, choices and texts never null."""
    if entry.type in ("INT", "FLOAT"):
        return _number(entry, value)
    if entry.type == "MARKDOWN" or (entry.type == "STRING" and entry.options.get("multiline")):
        return as_script_text(value)
    if entry.type == "COMBO" and absent(value):
        return first_choice(entry.options)
    return value


def _number(entry: Field, value: Any) -> Any:
    try:
        number = 0 if absent(value) else value if isinstance(value, int) and not isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None
    if not isinstance(number, int) and not math.isfinite(number):
        return None
    low, high, step = (_finite(entry.options.get(name)) for name in ("min", "max", "step"))
    if entry.type == "INT":
        grain = int(step) if step is not None and step >= 1 else 1
        shift = int(low) % grain if low is not None else 0
        number = number if grain == 1 and isinstance(number, int) else math.floor((number - shift) / grain + 0.5) * grain + shift
    else:
        digits = max(0, -math.floor(math.log10(step if step is not None and step > 0 else 0.5)))
        number = round(number, digits)
        low, high = (0 if low is None else low), (2048 if high is None else high)
    number = number if low is None else max(number, low)
    return number if high is None else min(number, high)


def _finite(value: object) -> float | int | None:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) else None
