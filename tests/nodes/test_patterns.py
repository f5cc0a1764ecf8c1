import pytest

from graph_engine.errors import NodeError
from nodes.patterns import RegexExtract, RegexMatch, RegexReplace, StringCompare, StringContains

TEXT = "a Red cat,\na blue cat"


def test_match_and_its_flags(ctx):
    assert RegexMatch(string=TEXT, regex_pattern="red").run(ctx)
    assert not RegexMatch(string=TEXT, regex_pattern="red", case_insensitive=False).run(ctx)
    assert not RegexMatch(string=TEXT, regex_pattern="^a blue").run(ctx)
    assert RegexMatch(string=TEXT, regex_pattern="^a blue", multiline=True).run(ctx)
    assert not RegexMatch(string=TEXT, regex_pattern="cat.*blue").run(ctx)
    assert RegexMatch(string=TEXT, regex_pattern="cat.*blue", dotall=True).run(ctx)


@pytest.mark.parametrize(
    ("mode", "index", "wanted"),
    [
        ("First Match", 1, "Red cat"),
        ("All Matches", 2, "Red\nblue"),
        ("First Group", 1, "Red"),
        ("All Groups", 2, "cat\ncat"),
        ("First Group", 3, ""),
    ],
)
def test_extract(ctx, mode, index, wanted):
    assert RegexExtract(string=TEXT, regex_pattern=r"(\w+) (cat)", mode=mode, group_index=index).run(ctx) == wanted
    assert RegexExtract(string=TEXT, regex_pattern="(dog)", mode=mode).run(ctx) == ""


def test_all_matches_are_whole_without_groups_and_groups_that_took_no_part_are_left_out(ctx):
    assert RegexExtract(string=TEXT, regex_pattern=r"\w+ cat", mode="All Matches").run(ctx) == "Red cat\nblue cat"
    assert RegexExtract(string="ab b ab", regex_pattern="(a)?b", mode="All Groups").run(ctx) == "a\na"
    assert RegexExtract(string="ab b ab", regex_pattern="(a)?b", mode="All Matches").run(ctx) == "a\n\na"
    assert RegexExtract(string="ab", regex_pattern="ab", mode="All Groups", group_index=0).run(ctx) == ""


def test_replace_with_groups_and_a_count(ctx):
    assert RegexReplace(string=TEXT, regex_pattern=r"(\w+) cat", replace=r"\1 dog").run(ctx) == "a Red dog,\na blue dog"
    assert RegexReplace(string=TEXT, regex_pattern="cat", replace="dog", count=1).run(ctx) == "a Red dog,\na blue cat"
    with pytest.raises(NodeError, match=r"replace: .* does not fit"):
        RegexReplace(string=TEXT, regex_pattern="cat", replace=r"\2").run(ctx)


def test_what_is_no_expression_is_named(ctx):
    with pytest.raises(NodeError, match=r"regex_pattern: '\(' is no regular expression"):
        RegexMatch(string=TEXT, regex_pattern="(").run(ctx)


def test_contains_and_compare(ctx):
    assert StringContains(string=TEXT, substring="Red").run(ctx)
    assert not StringContains(string=TEXT, substring="red").run(ctx)
    assert StringContains(string=TEXT, substring="red", case_sensitive=False).run(ctx)
    for mode, other in (("Starts With", "a red"), ("Ends With", "CAT"), ("Equal", TEXT.upper())):
        assert StringCompare(string_a=TEXT, string_b=other, mode=mode, case_sensitive=False).run(ctx)
        assert not StringCompare(string_a=TEXT, string_b=other, mode=mode).run(ctx)
