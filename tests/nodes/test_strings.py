import pytest
from hypothesis import given
from hypothesis import strategies as st

from graph_engine import Context
from nodes.strings import CaseConverter, StringConcatenate, StringLength, StringReplace, StringSubstring, StringTrim

SILENT = Context.silent()


def run(kind, **inputs):
    return kind(**inputs).run(SILENT)


@given(a=st.text(), b=st.text(), between=st.text(max_size=3))
def test_lengths_add_up_and_substrings_take_apart_what_was_joined(a, b, between):
    joined = run(StringConcatenate, string_a=a, string_b=b, delimiter=between)
    assert run(StringLength, string=joined) == len(a) + len(between) + len(b)
    assert run(StringSubstring, string=joined, start=0, end=len(a)) == a
    assert run(StringSubstring, string=joined, start=len(a) + len(between)) == b


def test_every_occurrence_is_replaced_and_nothing_occurs_between_all_letters():
    assert run(StringReplace, string="a red red star", find="red", replace="blue") == "a blue blue star"
    assert run(StringReplace, string="red", find="", replace="-") == "-r-e-d-"
    assert run(StringReplace, string="red", find="") == "red"


@given(text=st.text())
def test_trimming_both_ends_is_trimming_each(text):
    left = run(StringTrim, string=text, mode="Left")
    assert run(StringTrim, string=left, mode="Right") == run(StringTrim, string=text) == text.strip()


@pytest.mark.parametrize(
    ("mode", "made"),
    [("UPPERCASE", "A RED STAR"), ("lowercase", "a red star"), ("Capitalize", "A red star"), ("Title Case", "A Red Star")],
)
def test_cases(mode, made):
    assert run(CaseConverter, string="a RED star", mode=mode) == made
