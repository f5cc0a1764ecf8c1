"""What a literal must be to fill an input, and its one canonical form."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from graph_engine.sockets import ANY
from graph_engine.suggest import show

if TYPE_CHECKING:
    from graph_engine.spec import InputSpec

__all__ = ["WIDGETS", "Refusal", "canonical", "refuse"]

WIDGETS = frozenset({"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"})
Refusal = tuple[str, str, Any]  # code, message, wanted
_CALLED = {
    "INT": "a whole number",
    "FLOAT": "a number",
    "STRING": "a text",
    "BOOLEAN": "true or false",
    "COMBO": "a choice",
}


def refuse(spec: InputSpec, value: Any, choices: tuple[Any, ...] | None = None) -> Refusal | None:
    """Why `value` cannot fill the input, as (code, message, wanted); None when it can."""
    if value is None and spec.optional:
        return None
    if not spec.list:
        return _refuse_one(spec, value, choices)
    if not isinstance(value, list):
        wanted = f"a list of {_called(spec.types)}"
        if WIDGETS.isdisjoint(spec.types) and ANY not in spec.types:
            return (
                "socket_needs_link",
                f"{show(value)} given where a link carrying {' or '.join(spec.types)} is wanted",
                wanted,
            )
        return "wrong_type", f"{show(value)} is not {wanted}", wanted
    if objection := _refuse_length(spec, len(value), "items"):
        return objection
    for position, item in enumerate(value):
        if objection := _refuse_one(spec, item, choices):
            code, message, wanted = objection
            return code, f"item {position}: {message}", wanted
    return None


def _refuse_one(spec: InputSpec, value: Any, choices: tuple[Any, ...] | None) -> Refusal | None:
    kinds = spec.types
    if len(kinds) == 1 and kinds[0] in WIDGETS:
        return _refuse_kind(spec, value, kinds[0], choices)
    if ANY in kinds:
        return None
    objections = [_refuse_kind(spec, value, kind, choices) for kind in kinds if kind in WIDGETS]
    if None in objections:
        return None
    # of several types, the one that the value is of says best what is wrong with it
    best = next((found for found in objections if found and found[0] != "wrong_type"), None)
    if best is not None:
        return best
    called = _called(kinds)
    if objections:
        return "wrong_type", f"{show(value)} is neither of {called}", called
    return (
        "socket_needs_link",
        f"{show(value)} given where a link carrying {' or '.join(kinds)} is wanted",
        " or ".join(kinds),
    )


def _refuse_kind(spec: InputSpec, value: Any, kind: str, choices: tuple[Any, ...] | None) -> Refusal | None:
    if kind == "COMBO":
        return _refuse_choice(spec, value, spec.choices if choices is None else choices)
    if not _is_kind(value, kind):
        return "wrong_type", f"{show(value)} is not {_CALLED[kind]}", _CALLED[kind]
    if kind in ("INT", "FLOAT"):
        return _refuse_number(spec, value)
    if kind == "STRING" and not spec.list:
        if objection := _refuse_length(spec, len(value), "characters"):
            return objection
        if spec.pattern is not None and not _compiled(spec.pattern).search(value):
            return "value_not_matching", f"{show(value)} does not match {spec.pattern}", spec.pattern
    return None


def _refuse_choice(spec: InputSpec, value: Any, allowed: tuple[Any, ...] | None) -> Refusal | None:
    if allowed is None:  # a file name, and no folder to look into
        return None if isinstance(value, str) else ("wrong_type", f"{show(value)} is not a file name", "a file name")
    if _choice(value, allowed) is not None:
        return None
    what = f"a file in {spec.folder}" if spec.folder else "one of the choices"
    return "value_not_in_list", f"{show(value)} is not {what}", list(allowed)


def _refuse_number(spec: InputSpec, value: float) -> Refusal | None:
    if isinstance(value, float):
        if not math.isfinite(value):
            return "wrong_type", f"{show(value)} is not a finite number", "a finite number"
    elif "FLOAT" in spec.types and "INT" not in spec.types and abs(value) >= 1 << 1024:  # no float is as large
        return "wrong_type", f"{show(value)} is too large", "a finite number"
    low, high = spec.minimum, spec.maximum
    if low is not None and (value < low or (spec.above and value == low)):
        wanted = f"> {low}" if spec.above else f">= {low}"
        return (
            "value_smaller_than_min",
            f"{show(value)} is {'not above' if spec.above else 'smaller than'} {low}",
            wanted,
        )
    if high is not None and (value > high or (spec.below and value == high)):
        wanted = f"< {high}" if spec.below else f"<= {high}"
        return (
            "value_bigger_than_max",
            f"{show(value)} is {'not below' if spec.below else 'bigger than'} {high}",
            wanted,
        )
    if spec.multiple_of is not None and not _is_multiple(value, spec.multiple_of):
        return (
            "value_not_multiple",
            f"{show(value)} is not a multiple of {spec.multiple_of}",
            f"a multiple of {spec.multiple_of}",
        )
    return None


def _refuse_length(spec: InputSpec, length: int, what: str) -> Refusal | None:
    if spec.min_length is not None and length < spec.min_length:
        return "value_too_short", f"{length} {what} given", f"at least {spec.min_length} {what}"
    if spec.max_length is not None and length > spec.max_length:
        return "value_too_long", f"{length} {what} given", f"at most {spec.max_length} {what}"
    return None


def canonical(spec: InputSpec, value: Any) -> Any:
    """The one form of an acceptable literal, so that `20`, `20.0` and an omitted default mean the same run."""
    if spec.list and isinstance(value, list):
        return [_canonical_one(spec, item) for item in value]
    return _canonical_one(spec, value)


def _canonical_one(spec: InputSpec, value: Any) -> Any:
    if value is None:
        return value
    if isinstance(value, str):
        return value.replace("\\", "/") if spec.folder is not None else value
    if spec.choices is not None and (found := _choice(value, spec.choices)) is not None:
        return found[0]
    if isinstance(value, bool):
        return value
    if "FLOAT" in spec.types and "INT" not in spec.types and isinstance(value, int):
        return float(value)
    if "INT" in spec.types and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _choice(value: Any, allowed: Iterable[Any]) -> tuple[Any] | None:
    """The choice that `value` is, in a tuple; 1.0 is 1, but true is not."""
    if not isinstance(value, (str, int, float)):
        return None
    for choice in allowed:
        if choice == value and isinstance(choice, bool) == isinstance(value, bool):
            return (choice,)
    return None


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


def _is_multiple(value: float, of: float) -> bool:
    if isinstance(value, int) and isinstance(of, int):
        return value % of == 0
    # the slack that pydantic gives, too: 0.3 is a multiple of 0.1
    try:
        return abs(value - round(value / of) * of) <= 1e-9
    except OverflowError:  # neither does it have a quotient
        return False


def _called(kinds: Iterable[str]) -> str:
    return " or ".join(_CALLED.get(kind, f"a link carrying {kind}") for kind in kinds)


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)
