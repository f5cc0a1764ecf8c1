"""Widget values as the editor keeps and submits them."""

from __future__ import annotations

import json
import math
from typing import Any, Final

__all__ = ["MISSING", "absent", "as_prompt", "as_script_text", "as_unknown"]


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()  # a widget without any value, which JSON leaves out


def absent(value: Any) -> bool:
    """Whether there is no value: missing, null, or the NaN and Infinity that JSON cannot hold."""
    return value is MISSING or value is None or (isinstance(value, float) and not math.isfinite(value))


def as_prompt(value: Any, type: str = "") -> Any:
    """A widget's value as it is submitted: lists wrapped, so that they are not taken for links."""
    if absent(value):
        return None
    if type == "CURVE":
        return {"__type__": "CURVE", "__value__": value}
    return {"__value__": list(value)} if isinstance(value, (list, tuple)) else value


def as_script_text(value: Any) -> str:
    """The text of a value by the rules of ECMAScript's `String()` (ECMA-262, 7.1.17), which text areas apply."""
    if isinstance(value, str):
        return value
    if absent(value):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(int(value)) if float(value).is_integer() and abs(value) < 1e21 else repr(value)
    if isinstance(value, (list, tuple)):
        return ",".join(as_script_text(part) for part in value)
    return "[object Object]"


def as_unknown(value: Any) -> Any:
    """A value of a node whose type is not known: plain ones as they are, the rest as JSON text."""
    if isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if absent(value):
        return "null"
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
