"""Texts from texts: joined, replaced, cut, trimmed, in another case."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from graph_engine.node import Node
from nodes.params import number

if TYPE_CHECKING:
    from graph_engine.context import Context

LARGEST = 2**31 - 1
Text = Annotated[str, Field(json_schema_extra={"multiline": True}, description="The text.")]


class StringConcatenate(Node, category="utilities/string", title="Concatenate", aliases=("join", "append", "text")):
    """Two texts, one after the other, with a delimiter between."""

    string_a: Text
    string_b: Text
    delimiter: Annotated[str, Field(description="What comes between.")] = ""

    def run(self, ctx: Context) -> str:
        return self.string_a + self.delimiter + self.string_b


class StringReplace(Node, category="utilities/string", title="Replace", aliases=("substitute", "text")):
    """The text with every occurrence of one part replaced by another."""

    string: Text
    find: Annotated[str, Field(json_schema_extra={"multiline": True}, description="What is replaced; nothing: between all letters.")]
    replace: Annotated[str, Field(json_schema_extra={"multiline": True}, description="What comes in its place.")] = ""

    def run(self, ctx: Context) -> str:
        return self.string.replace(self.find, self.replace)


class StringSubstring(Node, category="utilities/string", title="Substring", aliases=("cut", "slice", "text")):
    """The letters from `start` up to, but not including, `end`; negative positions count from the end of the text."""

    string: Text
    start: Annotated[int, number(-LARGEST, LARGEST, 1, "The first letter, from 0.")] = 0
    end: Annotated[int, number(-LARGEST, LARGEST, 1, "The letter before which to stop.")] = LARGEST

    def run(self, ctx: Context) -> str:
        return self.string[self.start : self.end]


class StringLength(Node, category="utilities/string", title="Length", aliases=("count", "text")):
    """How many letters the text has."""

    string: Text

    def run(self, ctx: Context) -> int:
        return len(self.string)


class StringTrim(Node, category="utilities/string", title="Trim", aliases=("strip", "text")):
    """The text without white space at its ends."""

    string: Text
    mode: Annotated[Literal["Both", "Left", "Right"], Field(description="At which end.")] = "Both"

    def run(self, ctx: Context) -> str:
        return {"Both": self.string.strip, "Left": self.string.lstrip, "Right": self.string.rstrip}[self.mode]()


class CaseConverter(Node, category="utilities/string", title="Case Converter", aliases=("upper", "lower", "capitals", "text")):
    """The text in capitals, in small letters, or with capitals at the beginning of the text or of each word."""

    string: Text
    mode: Annotated[Literal["UPPERCASE", "lowercase", "Capitalize", "Title Case"], Field(description="Which.")] = "UPPERCASE"

    def run(self, ctx: Context) -> str:
        change = {"UPPERCASE": str.upper, "lowercase": str.lower, "Capitalize": str.capitalize, "Title Case": str.title}
        return change[self.mode](self.string)
