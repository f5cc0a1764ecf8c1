"""Numbered files: whole or not at all, never one number twice, never outside the folder."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from graph_engine.errors import NodeError
from graph_engine.saving import save_numbered, sweep


def save(folder, prefix="p", suffix=".txt", text="x", **substitutions):
    return save_numbered(folder, prefix, suffix, lambda file: file.write(text.encode()) and None, substitutions)


def test_numbers_count_up_from_the_highest(tmp_path):
    assert save(tmp_path).name == "p_00001_.txt"
    time.sleep(0.02)  # the clock of a file system is coarse
    (tmp_path / "p_00041_.png").touch()
    (tmp_path / "other_00099_.png").touch()
    (tmp_path / "p_x_00077_.png").touch()
    assert save(tmp_path).name == "p_00042_.txt"
    assert save(tmp_path, "p_x").name == "p_x_00078_.txt"


def test_what_others_put_into_the_folder_counts_too(tmp_path):
    for stem, number in [("a", 1), ("b", 1), ("a", 2), ("b", 2)]:
        assert save(tmp_path, stem).name == f"{stem}_{number:05}_.txt"
    time.sleep(0.02)  # the clock of a file system is coarse
    (tmp_path / "a_00050_.txt").touch()
    assert save(tmp_path, "b").name == "b_00003_.txt"
    assert save(tmp_path, "a").name == "a_00051_.txt"
    time.sleep(0.02)
    for path in tmp_path.glob("a_*"):
        path.unlink()
    assert save(tmp_path, "a").name == "a_00001_.txt"


def test_folders_are_made_and_substitutions_filled_in(tmp_path):
    path = save(tmp_path, "%year%/a/%width%x%height% %unknown%", width=64, height=32)
    assert path == tmp_path / str(time.localtime().tm_year) / "a" / "64x32 %unknown%_00001_.txt"
    assert path.read_text() == "x"


def test_files_of_one_batch_are_numbered_together(tmp_path):
    def batch() -> list[str]:
        return [save(tmp_path, "cat %batch_num%", batch_num=i).name for i in range(2)]

    assert batch() == ["cat 0_00001_.txt", "cat 1_00002_.txt"]
    time.sleep(0.02)  # the clock of a file system is coarse
    (tmp_path / "cat 7_00041_.txt").touch()
    assert batch() == ["cat 0_00042_.txt", "cat 1_00043_.txt"]
    assert save(tmp_path, "cat %batch_num%").name == "cat %batch_num%_00044_.txt"


@pytest.mark.parametrize("prefix", ["../x", "a/../../x", "/tmp/x", "C:/x", "a/..", "", "a/", "..", "a\0b", "\\\\server\\x", "%up%/x"])
def test_nothing_leaves_the_folder(tmp_path, prefix):
    with pytest.raises(NodeError, match=r"is not a prefix|leads out"):
        save(tmp_path / "out", prefix, up="..")
    assert not list(tmp_path.rglob("*.txt"))


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NodeError, match="leads out"):
        save(tmp_path / "out", "link/x")


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    def fail(file):
        file.write(b"half")
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        save_numbered(tmp_path, "p", ".txt", fail, {})
    assert not list(tmp_path.iterdir())


def test_threads_never_share_a_number(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda i: save(tmp_path, text=str(i)), range(100)))
    assert len(set(paths)) == 100
    assert sorted(int(path.read_text()) for path in paths) == list(range(100))
    assert len(list(tmp_path.iterdir())) == 100


def test_processes_never_share_a_number(tmp_path):
    code = (
        "import sys; from pathlib import Path; from graph_engine.saving import save_numbered\n"
        "for i in range(30): save_numbered(Path(sys.argv[1]), 'p', '.txt', lambda f: f.write(sys.argv[2].encode()) and None, {})"
    )
    root = Path(__file__).parents[2]
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name], cwd=root, env={**os.environ, "PYTHONPATH": str(root)})
        for name in "ab"
    ]
    assert [process.wait(60) for process in running] == [0, 0]
    texts = [path.read_text() for path in sorted(tmp_path.iterdir())]
    assert sorted(texts) == ["a"] * 30 + ["b"] * 30


def test_file_systems_without_links_work_too(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("links are not supported")

    monkeypatch.setattr(os, "link", refuse)
    assert [save(tmp_path).name for _ in range(2)] == ["p_00001_.txt", "p_00002_.txt"]
    assert all(path.read_text() == "x" for path in tmp_path.iterdir())


def test_others_may_read_what_was_written(tmp_path):
    mask = os.umask(0o022)
    try:
        assert save(tmp_path).stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(mask)


def test_what_a_killed_process_left_is_swept_and_nothing_else(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    left = below / f".{dead.pid}.{'0' * 32}.part"
    kept = [below / f".{os.getpid()}.{'0' * 32}.part", below / ".x.part", below / f"{dead.pid}.part", below / f".{10**30}.{'0' * 32}.part"]
    for path in (left, *kept):
        path.touch()
    assert sweep(tmp_path) == 1
    assert sorted(below.iterdir()) == sorted(kept)
    assert sweep(tmp_path / "nothing here") == 0
