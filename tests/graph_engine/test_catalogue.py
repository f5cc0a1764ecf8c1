from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from graph_engine.catalogue import Catalogue, cache_home
from graph_engine.errors import GraphError
from graph_engine.registry import Registry

Install = Callable[..., None]
NODE = """
from typing import Literal
from graph_engine.node import Node

print("noise on the way")

class {name}(Node, category="test"):
    count: int = {default}

    def run(self, ctx) -> int: ...
"""


def exports(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts how often another process is started."""
    made: list[int] = []
    real = subprocess.run

    def counted(*args: object, **keywords: object) -> object:
        made.append(1)
        return real(*args, **keywords)  # type: ignore[call-overload]

    monkeypatch.setattr("graph_engine.catalogue.subprocess.run", counted)
    return made


def test_a_catalogue_of_loaded_classes(registry: Registry) -> None:
    catalogue = Catalogue.of(registry)
    assert catalogue.specs == registry.specs
    assert catalogue.broken == ()


def test_it_is_exported_once_and_says_what_the_classes_say(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    install("listed", {"listed/__init__.py": "", "listed/a.py": NODE.format(name="ListedA", default=3)})
    install("spoilt", {"spoilt.py": "1 / 0"})
    made = exports(monkeypatch)
    first = Catalogue.load(tmp_path / "cache")
    second = Catalogue.load(tmp_path / "cache")
    assert len(made) == 1
    assert "listed.a" not in sys.modules
    assert capfd.readouterr() == ("", "")
    assert first.specs == second.specs
    assert first.broken == second.broken
    assert [broken.name for broken in first.broken if broken.name == "spoilt"] == ["spoilt"]
    assert "ZeroDivisionError" in first.broken[-1].error
    registry = Registry.discover()
    assert first.specs["ListedA"] == registry.specs["ListedA"]
    assert first.specs["ListedA"].package == "listed"


def test_it_is_made_anew_when_anything_changes(install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, cache = tmp_path / "site", tmp_path / "cache"
    source = "from choices_of_mine import DEFAULT\n" + NODE.format(name="Moving", default="DEFAULT")
    install("moving", {"moving/__init__.py": "", "moving/a.py": source, "choices_of_mine.py": "DEFAULT = 1"})
    made = exports(monkeypatch)
    assert Catalogue.load(cache).specs["Moving"].inputs[0].default == 1

    (place / "moving" / "b.py").write_text(NODE.format(name="Further", default=1))  # a new file
    assert "Further" in Catalogue.load(cache).specs
    assert len(made) == 2

    (place / "choices_of_mine.py").write_text("DEFAULT = 22")  # what a package imports from elsewhere
    assert Catalogue.load(cache).specs["Moving"].inputs[0].default == 22
    assert len(made) == 3

    (place / "moving" / "b.py").unlink()
    assert "Further" not in Catalogue.load(cache).specs
    assert len(made) == 4

    (place / "moving-1.0.dist-info").rename(place / "moving-1.1.dist-info")
    metadata = place / "moving-1.1.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("1.0", "1.1"))
    Catalogue.load(cache)
    assert len(made) == 5
    Catalogue.load(cache)
    assert len(made) == 5


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1, "specs": 5}', '{"format": 0}'])
def test_a_damaged_file_is_made_anew(install: Install, tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    install("mended", {"mended.py": NODE.format(name="Mended", default=1)})
    monkeypatch.setattr("graph_engine.catalogue._export_elsewhere", lambda: b'{"format": 1, "specs": [{"type": "Mended"}]}')
    Catalogue.load(tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    file.write_text(content)
    assert "Mended" in Catalogue.load(tmp_path / "cache").specs
    assert list((tmp_path / "cache").iterdir()) == [file]


def test_an_unwritable_cache_costs_time_only(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("graph_engine.catalogue._export_elsewhere", lambda: b'{"format": 1, "specs": [{"type": "X"}]}')
    (tmp_path / "file").touch()
    assert "X" in Catalogue.load(tmp_path / "file" / "cache").specs
    assert "cannot be kept" in caplog.text


def test_a_process_that_dies_says_so(install: Install, tmp_path: Path) -> None:
    install("deadly", {"deadly.py": "import os, sys; sys.stderr.write('last words'); sys.stderr.flush(); os._exit(9)"})
    with pytest.raises(GraphError, match=r"(?s)exit code 9.*last words"):
        Catalogue.load(tmp_path / "cache")


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LATENTGRAPH_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_home() == tmp_path / "latentgraph"
    monkeypatch.setenv("LATENTGRAPH_CACHE", str(tmp_path / "own"))
    assert cache_home() == tmp_path / "own"
    assert os.listdir(tmp_path) == []
