"""Texts searched, taken apart and changed by regular expressions, and compared."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from graph_engine.errors import NodeError
from graph_engine.node import Node
from nodes.params import number

if TYPE_CHECKING:
    from graph_engine.context import Context

Text = Annotated[str, Field(json_schema_extra={"multiline": True}, description="The text.")]
Pattern = Annotated[str, Field(json_schema_extra={"multiline": True}, description="A regular expression in Python's notation.")]
CaseInsensitive = Annotated[bool, Field(description="Capitals and small letters count as equal.")]
Multiline = Annotated[bool, Field(description="^ and $ match at every line.")]
Dotall = Annotated[bool, Field(description="The dot matches line ends, too.")]


def compiled(pattern: str, case_insensitive: bool, multiline: bool, dotall: bool) -> re.Pattern[str]:
    """The expression; NodeError, naming the field and what is wrong, for one that is none."""
    flags = (re.IGNORECASE if case_insensitive else 0) | (re.MULTILINE if multiline else 0) | (re.DOTALL if dotall else 0)
    try:
        return re.compile(pattern, flags)
    except re.error as problem:
        raise NodeError(f"regex_pattern: {pattern!r} is no regular expression: {problem}") from problem


class RegexMatch(Node, category="utilities/string", title="Regex Match", aliases=("search", "contains", "text")):
    """Whether a regular expression is found in the text."""

    string: Text
    regex_pattern: Pattern
    case_insensitive: CaseInsensitive = True
    multiline: Multiline = False
    dotall: Dotall = False

    def run(self, ctx: Context) -> bool:
        return compiled(self.regex_pattern, self.case_insensitive, self.multiline, self.dotall).search(self.string) is not None


class RegexExtract(Node, category="utilities/string", title="Regex Extract", aliases=("search", "group", "text")):
    """What a regular expression, or a group of it, matches; an empty text where it does not. Several are joined by line ends.

    As in ComfyUI, "All Matches" of an expression with groups gives the first group of each match.
    """

    string: Text
    regex_pattern: Pattern
    mode: Annotated[Literal["First Match", "All Matches", "First Group", "All Groups"], Field(description="What to take.")] = "First Match"
    case_insensitive: CaseInsensitive = True
    multiline: Multiline = False
    dotall: Dotall = False
    group_index: Annotated[int, number(0, 100, 1, "Which group, counted from 1; 0 is the whole match.")] = 1

    def run(self, ctx: Context) -> str:
        pattern = compiled(self.regex_pattern, self.case_insensitive, self.multiline, self.dotall)
        group = {"First Match": 0, "All Matches": min(1, pattern.groups)}.get(self.mode, self.group_index)
        if group > pattern.groups or (self.mode == "All Groups" and not pattern.groups):
            return ""
        found = [match.group(group) for match in pattern.finditer(self.string)]
        if self.mode == "All Groups":
            found = [each for each in found if each is not None]
        return "\n".join(each or "" for each in (found if self.mode.startswith("All") else found[:1]))


class RegexReplace(Node, category="utilities/string", title="Regex Replace", aliases=("substitute", "text")):
    """The text with what a regular expression matches replaced; \\1 stands for its first group."""

    string: Text
    regex_pattern: Pattern
    replace: Annotated[str, Field(json_schema_extra={"multiline": True}, description="What comes in its place.")]
    case_insensitive: CaseInsensitive = True
    multiline: Multiline = False
    dotall: Dotall = False
    count: Annotated[int, number(0, 100, 1, "How many at most; 0 for all.")] = 0

    def run(self, ctx: Context) -> str:
        pattern = compiled(self.regex_pattern, self.case_insensitive, self.multiline, self.dotall)
        try:
            return pattern.sub(self.replace, self.string, count=self.count)
        except (re.error, IndexError) as problem:
            raise NodeError(f"replace: {self.replace!r} does not fit the expression: {problem}") from problem


class StringContains(Node, category="utilities/string", title="Contains", aliases=("search", "text")):
    """Whether one text is a part of another."""

    string: Text
    substring: Annotated[str, Field(json_schema_extra={"multiline": True}, description="What is looked for.")]
    case_sensitive: Annotated[bool, Field(description="Capitals and small letters differ.")] = True

    def run(self, ctx: Context) -> bool:
        if self.case_sensitive:
            return self.substring in self.string
        return self.substring.lower() in self.string.lower()


class StringCompare(Node, category="utilities/string", title="Compare", aliases=("equal", "starts with", "text")):
    """Whether a text equals another, or starts or ends with it."""

    string_a: Text
    string_b: Text
    mode: Annotated[Literal["Starts With", "Ends With", "Equal"], Field(description="What to ask.")] = "Starts With"
    case_sensitive: Annotated[bool, Field(description="Capitals and small letters differ.")] = True

    def run(self, ctx: Context) -> bool:
        a, b = (self.string_a, self.string_b) if self.case_sensitive else (self.string_a.lower(), self.string_b.lower())
        return {"Starts With": a.startswith(b), "Ends With": a.endswith(b), "Equal": a == b}[self.mode]
