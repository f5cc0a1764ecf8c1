from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from graph_engine.digests import Digests

LONG_AGO = 1_000_000_000_000_000_000


def write(path: Path, text: str, *, when: int | None = LONG_AGO) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    if when is not None:
        os.utime(path, ns=(when, when))
    return path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts how often a file is really read."""
    made: list[int] = []
    real = hashlib.file_digest

    def counted(*args: Any) -> Any:
        made.append(1)
        return real(*args)

    monkeypatch.setattr("graph_engine.digests.hashlib.file_digest", counted)
    return made


def test_it_is_the_sha256_of_the_content(tmp_path: Path) -> None:
    path = write(tmp_path / "a", "hello")
    assert Digests().of(path) == hashlib.sha256(b"hello").hexdigest()
    assert Digests().of(str(path)) == Digests().of(path)


def test_names_and_times_do_not_matter_but_content_does(tmp_path: Path) -> None:
    digests = Digests()
    first = digests.of(write(tmp_path / "a", "one"))
    assert digests.of(write(tmp_path / "b", "one", when=LONG_AGO + 5)) == first
    assert digests.of(write(tmp_path / "a", "two", when=LONG_AGO + 7)) != first


@pytest.mark.parametrize("kept", [False, True])
def test_a_file_is_read_once(tmp_path: Path, kept: bool, reads: list[int]) -> None:
    path = write(tmp_path / "a", "one")
    digests = Digests(tmp_path / "cache" / "digests.sqlite" if kept else None)
    found = [digests.of(path) for _ in range(3)]
    digests.close()
    assert len(set(found)) == 1
    assert len(reads) == 1
    if kept:
        again = Digests(tmp_path / "cache" / "digests.sqlite")
        assert again.of(path) == found[0]
        assert len(reads) == 1
        again.close()


def test_a_file_written_just_now_is_not_remembered(tmp_path: Path) -> None:
    """Two writes within one tick of the clock leave size and time as they were."""
    digests = Digests()
    path = write(tmp_path / "a", "one", when=None)
    time = path.stat().st_mtime_ns
    first = digests.of(path)
    write(path, "two", when=time)
    assert digests.of(path) != first


def test_a_folder_is_its_names_and_contents(tmp_path: Path) -> None:
    digests = Digests()
    for place in ("x", "y"):
        write(tmp_path / place / "a", "1")
        write(tmp_path / place / "deep" / "b", "2")
    same = digests.of(tmp_path / "x")
    assert digests.of(tmp_path / "y") == same
    write(tmp_path / "y" / ".hidden", "3")
    assert digests.of(tmp_path / "y") == same
    (tmp_path / "y" / "a").rename(tmp_path / "y" / "c")
    renamed = digests.of(tmp_path / "y")
    write(tmp_path / "y" / "c", "9", when=LONG_AGO + 3)
    assert len({same, renamed, digests.of(tmp_path / "y")}) == 3
    (tmp_path / "empty").mkdir()
    assert digests.of(tmp_path / "empty") != same


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Digests().of(tmp_path / "gone")


def test_threads_may_ask_at_once(tmp_path: Path) -> None:
    digests = Digests(tmp_path / "d.sqlite")
    files = [write(tmp_path / f"f{n}", str(n)) for n in range(8)]
    found: list[list[str]] = []
    threads = [threading.Thread(target=lambda: found.append([digests.of(file) for file in files])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    digests.close()
    assert found == [[hashlib.sha256(str(n).encode()).hexdigest() for n in range(8)]] * 4
