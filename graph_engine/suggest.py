"""The nearest known name to one that is not known, for hints."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

__all__ = ["did_you_mean", "nearest", "show"]

_LONGEST = 80  # comparing costs length squared, and nobody mistypes a page


def nearest(name: str, known: Iterable[str], *, cutoff: float = 0.6, parts: bool = True) -> str | None:
    """The known name that `name` most likely means, case aside, a part of a name counting too if `parts`; None when
    nothing is near.
    """
    if not name or len(name) > _LONGEST:
        return None
    folded: dict[str, str] = {}
    for candidate in known:
        if len(candidate) <= _LONGEST:
            folded.setdefault(candidate.casefold(), candidate)
    wanted = name.casefold()
    if wanted in folded:
        return folded[wanted]
    close = get_close_matches(wanted, folded, n=1, cutoff=cutoff)
    if close:
        return folded[close[0]]
    if not parts or len(wanted) < 3:
        return None
    # "sampler" for "KSampler", "toy" for "toybox"
    holding = [key for key in folded if wanted in key or (len(key) >= 3 and key in wanted)]
    return folded[min(holding, key=lambda key: (len(key), key))] if holding else None


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """A hint sentence with the nearest known name, or None."""
    found = nearest(name, known)
    return None if found is None else f"did you mean {found!r}?"


def show(value: Any, limit: int = 60) -> str:
    """A value as a short piece of one line; never fails, however odd the value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    try:
        text = repr(value)
    except Exception as error:  # a repr of somebody's object, or an int of more digits than Python prints
        text = f"<{type(value).__name__}: {type(error).__name__} when shown>"
    return text if len(text) <= limit else f"{text[: limit - 4]}...{text[-1]}"
