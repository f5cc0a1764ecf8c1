"""Literals as clients of ComfyUI send them: numbers in quotation marks and the like, which its server turns into what is meant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from graph_engine import NodeSpec

__all__ = ["meant"]

_TRUTHS = {"true": True, "false": False, "1": True, "0": False}


def meant(prompt: dict[str, Any], specs: Mapping[str, NodeSpec]) -> dict[str, Any]:
    """The prompt with every literal of another kind than its input turned into that kind, where it has one clear meaning there.

    `"20"` is 20 for an INT, 7 is "7" for a STRING, `"true"` and 1 are true for a BOOLEAN. What has no such meaning stays for validation to
    refuse; 20.7 does for an INT, which ComfyUI would cut to 20. The prompt itself where there is nothing to do.
    """
    changed: dict[str, Any] = {}
    for id, node in prompt.items():
        spec = specs.get(node.get("class_type") or "") if isinstance(node, dict) and isinstance(node.get("class_type"), str) else None
        inputs = node.get("inputs") if spec is not None else None
        if spec is None or not isinstance(inputs, dict):
            continue
        turned = {}
        for name, value in inputs.items():
            entry = spec.by_name.get(name)
            if entry is None or entry.list or len(entry.types) != 1 or (turn := _TURNS.get(entry.types[0])) is None:
                continue
            if (other := turn(value)) is not None:
                turned[name] = other
        if turned:
            changed[id] = {**node, "inputs": {**inputs, **turned}}
    return {**prompt, **changed} if changed else prompt


def _number(kind: type[int] | type[float]) -> Callable[[Any], Any]:
    def turn(value: Any) -> Any:
        if not isinstance(value, str) or "_" in value:
            return None
        try:
            return kind(value)
        except ValueError:
            return None

    return turn


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, (int, float)) else None


def _truth(value: Any) -> Any:
    if isinstance(value, str):
        return _TRUTHS.get(value.strip().lower())
    return bool(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and value in (0, 1) else None


_TURNS: dict[str, Callable[[Any], Any]] = {"INT": _number(int), "FLOAT": _number(float), "STRING": _text, "BOOLEAN": _truth}
