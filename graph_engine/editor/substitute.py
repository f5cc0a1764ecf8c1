"""What the editor puts into texts when it submits: one of several wordings, and names made of dates and other widgets."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from graph_engine.editor.graph import Node
from graph_engine.editor.literal import as_script_text

__all__ = ["NAMING", "name_of_file", "wording"]

NAMING = {
    *("SaveImage", "SaveImageAdvanced", "SaveSVGNode", "SaveVideo", "SaveWEBM", "SaveAnimatedWEBP", "SaveAnimatedPNG"),
    *("SaveAudio", "SaveAudioMP3", "SaveAudioOpus", "SaveGLB", "CLIPSave", "VAESave", "ModelSave", "LoraSave", "SaveLatent"),
}
_UNFIT = re.compile(r'[/?<>\\:*|"\x00-\x1f\x7f]')
_DATE = re.compile("yyyy|yy|MM?|dd?|hh?|mm?|ss?")
_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)


def wording(text: str, choose: random.Random) -> str:
    """A text with comments taken out and one alternative of each `{a|b|c}` chosen; `\\{` is a plain brace."""
    text = _COMMENT.sub("", text)
    levels: list[list[list[str]]] = [[[]]]  # for each open brace its alternatives, each a list of pieces
    at = 0
    while at < len(text):
        letter = text[at]
        if letter == "\\" and text[at + 1 : at + 2] in ("{", "}", "|", "\\"):
            levels[-1][-1].append(text[at + 1] if text[at + 1] != "\\" else "\\\\")
            at += 2
            continue
        if letter == "{":
            levels.append([[]])
        elif letter == "|" and len(levels) > 1:
            levels[-1].append([])
        elif letter == "}" and len(levels) > 1:
            chosen = choose.choice(levels.pop())
            levels[-1][-1].extend(chosen)
        else:
            levels[-1][-1].append(letter)
        at += 1
    while len(levels) > 1:  # a brace that was never closed ends with the text
        chosen = choose.choice(levels.pop())
        levels[-1][-1].extend(chosen)
    return "".join(levels[0][0])


def name_of_file(text: str, nodes: Iterable[Node], now: datetime) -> str:
    """A file name with `%date:yyyy-MM-dd%` and `%Node.widget%` filled in; what cannot be filled in stays."""
    found = [*nodes]

    def fill(match: re.Match[str]) -> str:
        inside = match[1]
        if inside.startswith("date:"):
            return _DATE.sub(lambda part: _of_date(part[0], now), inside[5:])
        parts = inside.split(".")
        if len(parts) != 2:
            return match[0]
        named = [node for node in found if _search_name(node) == parts[0]] or [node for node in found if node.title == parts[0]]
        if not named or parts[1] not in named[0].values:
            return match[0]
        return _UNFIT.sub("_", as_script_text(named[0].values[parts[1]]))

    return re.sub("%([^%]+)%", fill, text)


def _search_name(node: Node) -> Any:
    return node.properties.get("Node name for S&R") or node.type


def _of_date(part: str, now: datetime) -> str:
    numbers: Mapping[str, int] = {
        "M": now.month,
        "d": now.day,
        "h": now.hour,
        "m": now.minute,
        "s": now.second,
    }
    if part[0] == "y":
        return f"{now.year}" if part == "yyyy" else f"{now.year % 100:02}"
    return f"{numbers[part[0]]:0{len(part)}}"
