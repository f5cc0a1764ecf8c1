"""A listing is read once and stays true until a file comes or goes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from graph_engine import scan as module
from graph_engine.files import Folders
from graph_engine.scan import scan

LONG_AGO = 1_600_000_000


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "b.safetensors").touch()
    (tmp_path / "deep" / "er" / "A.ckpt").touch()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "c.safetensors").touch()
    settle(tmp_path)
    return tmp_path


def settle(place: Path) -> None:
    """Let the folders look as if nothing had happened in them for long."""
    for folder in [place, *(path for path in place.rglob("*") if path.is_dir())]:
        os.utime(folder, (LONG_AGO, LONG_AGO))


def test_names_are_those_of_the_files_below(place):
    assert scan(place, "loras").names == ("b.safetensors", "deep/er/A.ckpt")


def test_it_holds_while_nothing_happens_and_after_a_file_is_rewritten(place):
    found = scan(place, "loras")
    assert found.holds()
    (place / "b.safetensors").write_text("other weights")
    assert found.holds()


@pytest.mark.parametrize(
    "change",
    [
        lambda place: (place / "new.safetensors").touch(),
        lambda place: (place / "deep" / "er" / "new.safetensors").touch(),
        lambda place: (place / "b.safetensors").unlink(),
        lambda place: (place / "b.safetensors").rename(place / "deep" / "b.safetensors"),
        lambda place: (place / "deep" / "empty").mkdir(),
        lambda place: shutil.rmtree(place / "deep"),
        lambda place: shutil.rmtree(place),
    ],
    ids=["new", "new below", "gone", "moved", "folder", "folder gone", "all gone"],
)
def test_it_no_longer_holds_after_a_change(place, change):
    found = scan(place, "loras")
    change(place)
    assert not found.holds()


def test_a_folder_that_has_just_changed_is_not_trusted(place):
    # a clock may be too coarse to tell the next change from the last
    (place / "new.safetensors").touch()
    assert not scan(place, "loras").holds()


def test_a_folder_that_is_not_there_holds_until_it_comes(tmp_path):
    found = scan(tmp_path / "none", "loras")
    assert found.names == ()
    assert found.holds()
    (tmp_path / "none").mkdir()
    assert not found.holds()


def test_folders_are_read_again_only_after_a_change(place, monkeypatch):
    folders = Folders(place.parent, {"loras": [place]})
    walked = []
    walk = os.walk
    monkeypatch.setattr(module.os, "walk", lambda path, *a, **k: walked.append(path) or walk(path, *a, **k))
    first = folders.list("loras")
    times = len(walked)
    assert folders.list("loras") == first
    assert len(walked) == times
    (place / "new.safetensors").touch()
    assert folders.list("loras") == ("b.safetensors", "deep/er/A.ckpt", "new.safetensors")
    assert len(walked) == times + 1
