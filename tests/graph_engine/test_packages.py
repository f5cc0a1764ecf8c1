from __future__ import annotations

import sys
from pathlib import Path

import pytest

from graph_engine.packages import package_file, package_paths, sources


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("pack/__init__.py", "pack/a.py", "pack/sub/__init__.py", "pack/sub/b.py", "pack/__pycache__/x.py", "one.py", "pack/d.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("raise RuntimeError('imported')")
    (tmp_path / "spread").mkdir()
    (tmp_path / "spread" / "c.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("pack", ["pack"]),
        ("pack.sub", ["pack/sub"]),
        ("pack.a", ["pack/a.py"]),
        ("pack.gone", []),
        ("one", ["one.py"]),
        ("one.more", []),
        ("spread", ["spread"]),
        ("no_such_package", []),
        ("sys", []),
        ("", []),
    ],
)
def test_packages_are_found_without_importing_them(site: Path, name: str, paths: list[str]) -> None:
    assert package_paths(name) == [site / path for path in paths]
    assert not {"pack", "one", "spread"} & set(sys.modules)


def test_the_sources_of_a_package_are_all_its_python_files(site: Path) -> None:
    assert [path.relative_to(site).as_posix() for path in sources("pack")] == [
        "pack/__init__.py",
        "pack/a.py",
        "pack/sub/__init__.py",
        "pack/sub/b.py",
    ]
    assert [path.relative_to(site).as_posix() for path in sources("pack.sub")] == [
        "pack/__init__.py",
        "pack/sub/__init__.py",
        "pack/sub/b.py",
    ]
    assert list(sources("one")) == [site / "one.py"]
    assert list(sources("no_such_package")) == []


def test_files_of_a_package(site: Path) -> None:
    assert package_file("pack:d.txt") == site / "pack" / "d.txt"
    assert package_file("pack:sub") == site / "pack" / "sub"
    assert package_file("pack:gone") is None
    assert package_file("pack") is None
    assert package_file("no_such_package:d.txt") is None
