from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graph_engine.suggest import did_you_mean, nearest, show

NODES = ["KSampler", "KSamplerAdvanced", "SaveImage", "LoadImage", "toybox", "VAEDecode"]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("KSamplr", "KSampler"),
        ("ksampler", "KSampler"),
        ("SavImage", "SaveImage"),
        ("sampler", "KSampler"),
        ("toy", "toybox"),
        ("toybox.safetensors", "toybox"),
        ("quite different", None),
        ("", None),
        ("K" * 100_000, None),
    ],
)
def test_the_nearest_name(name: str, found: str | None) -> None:
    assert nearest(name, NODES) == found


@given(st.text(), st.lists(st.text()))
def test_a_suggestion_is_always_a_known_name(name: str, known: list[str]) -> None:
    found = nearest(name, known)
    assert found is None or found in known
    if name and name in known and len(name) <= 80:
        assert found is not None
        assert found.casefold() == name.casefold()


def test_a_hint_is_a_sentence_or_nothing() -> None:
    assert did_you_mean("KSamplr", NODES) == "did you mean 'KSampler'?"
    assert did_you_mean("xyzzy", NODES) is None


class Odd:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "null"), (True, "true"), (1.5, "1.5"), ("a\nb", r"'a\nb'"), (Odd(), "<Odd: RuntimeError when shown>")],
)
def test_values_are_shown_as_json_has_them(value: Any, shown: str) -> None:
    assert show(value) == shown


@pytest.mark.parametrize("value", ["x" * 10_000, list(range(10_000)), 10**5000], ids=["text", "list", "number"])
def test_what_is_shown_is_short(value: Any) -> None:
    assert len(show(value)) <= 60
