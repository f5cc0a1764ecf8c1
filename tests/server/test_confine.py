"""No name leads out of its folder, and every reasonable name stays usable."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.confine import BadName, LeadsOut, inside, relative

OUT = [
    "../a",
    "a/../../b",
    "a/..",
    "..",
    "/etc/passwd",
    "//host/share",
    "..\\..\\a",
    "a\\b",
    "C:\\a",
    "c:a",
    "a/C:/b",
    "%2e%2e/a",
    "..%2fa",
    "%2e%2e%2fa",
    "%252e%252e%252fa",
    "%25252e%25252e/a",
    "%2fetc/passwd",
    "a%5c..%5cb",
    "%00",
    "．．／a",
    "‥/a",
    "%EF%BC%8E%EF%BC%8E/a",
    "＼＼host",
    "／etc",
]
BAD = [
    "a\0b",
    "a\nb",
    "a\x7fb",
    "\ud800",
    "con",
    "NUL",
    "nul.png",
    "aux.tar.gz",
    "COM1",
    "lpt9.txt",
    "com¹",
    "con .txt",
    "a.",
    "a ",
    "x/con/y",
    "a./b",
    "é" * 128,
    "x" * 256,
    "a/" * 600,
    "%" + "25" * 20 + "2e",
]
GOOD = [
    "a.png",
    "sub/a.json",
    "100%.json",
    "50%25.json",
    "my flow (2).json",
    "Überblick/猫.json",
    "..a",
    "a..b",
    ".index.json",
    "a'b\"c<d>.json",
    "猫／犬.json",
    "console.png",
    "com10",
    "nullable",
    "a b/c d",
    "e\u0301",
    "~",
    "family 👨‍👩‍👧.json",
]


@pytest.mark.parametrize("name", OUT)
def test_names_that_climb_are_refused_in_every_spelling(name: str, tmp_path: Path) -> None:
    with pytest.raises(LeadsOut):
        inside(tmp_path, name)


@pytest.mark.parametrize("name", BAD)
def test_names_that_no_system_or_not_every_system_can_hold(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadName):
        inside(tmp_path, name)


@pytest.mark.parametrize("name", GOOD)
def test_reasonable_names_are_kept_as_they_are(name: str, tmp_path: Path) -> None:
    path = inside(tmp_path, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    assert path == Path(os.path.realpath(tmp_path)) / name


def test_an_empty_name_is_the_folder_itself(tmp_path: Path) -> None:
    assert inside(tmp_path, "") == inside(tmp_path, "./") == Path(os.path.realpath(tmp_path))
    assert not relative(".//.").parts


def test_symbolic_links_may_point_about_but_not_out(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "sub").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret").write_text("s")
    (root / "out").symlink_to(outside)
    (root / "file").symlink_to(outside / "secret")
    (root / "in").symlink_to(root / "sub")
    (root / "loop").symlink_to(root / "loop")
    for name in ("out", "out/secret", "file", "out/new"):
        with pytest.raises(LeadsOut, match="leads out"):
            inside(root, name)
    assert inside(root, "in/a") == Path(os.path.realpath(root)) / "sub" / "a"
    assert inside(root, "loop").is_relative_to(root)


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert inside(tmp_path / "link", "a") == Path(os.path.realpath(tmp_path)) / "real" / "a"


pieces = st.sampled_from(
    ["..", ".", "/", "\\", "%2e", "%2f", "%252f", "%5c", "%00", "．", "／", "C:", "~", "a", "é", " ", "\0", "con", "%"]
)


@given(st.one_of(st.text(max_size=40), st.lists(pieces, max_size=8).map("".join)))
def test_whatever_comes_it_stays_inside_or_is_refused(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    root = Path(os.path.realpath(tmp_path_factory.getbasetemp()))
    try:
        path = inside(root, name)
    except BadName:
        return
    assert path.is_relative_to(root)
    assert os.path.normpath(root / name) == str(path)  # and it is the file that the name says


@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="/\\:", categories=["L", "N", "P", "S"]), min_size=1, max_size=12),
        max_size=3,
    )
)
def test_a_name_that_is_fine_is_refused_when_it_is_encoded_to_climb(tmp_path_factory: pytest.TempPathFactory, parts: list[str]) -> None:
    root = tmp_path_factory.getbasetemp()
    name = "/".join([*parts, "..", "..", "x"])
    for _ in range(4):
        with pytest.raises(BadName):
            inside(root, name)
        name = quote(name, safe="")


def test_an_error_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(BadName, match="'con' is no name for a file on every system"):
        inside(tmp_path, "con")
