"""The benchmarks start, say what they measure, and the shortest of them run."""

from __future__ import annotations

import csv
import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if "__main__" in path.read_text())


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a benchmark with these words on its command line; what it prints."""

    def ran(path: Path, *words: object) -> str:
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, words)])
        monkeypatch.syspath_prepend(FOLDER)
        runpy.run_path(str(path), run_name="__main__")
        return capsys.readouterr().out

    return ran


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_it_says_what_it_measures(path, run, capsys):
    with pytest.raises(SystemExit) as end:
        run(path, "--help")
    assert end.value.code in (0, None)
    assert "usage" in capsys.readouterr().out


def test_the_edit_benchmark_judges_the_truth_by_itself(run, tmp_path):
    """The unedited picture is its own source, and does not show what was asked for; the table and the sheet are written."""
    said = run(FOLDER / "editing.py", "--n", 2, "--ways", "source", "autoencoder alone", "--out", tmp_path)
    assert "autoencoder alone" in said
    rows = {row["way"]: row for row in csv.DictReader((tmp_path / "editing.csv").read_text().splitlines())}
    assert (float(rows["source"]["structure"]), float(rows["source"]["bg_ssim"])) == (0, pytest.approx(100))
    assert float(rows["source"]["target"]) == 0 < float(rows["source"]["edit_error"])
    assert 28 < float(rows["autoencoder alone"]["bg_psnr"]) < 45
    assert (tmp_path / "editing.png").is_file()


def test_the_edit_benchmark_knows_its_rows(run, capsys):
    with pytest.raises(SystemExit):
        run(FOLDER / "editing.py", "--ways", "wishing")
    assert "no such row: wishing; there are source, " in capsys.readouterr().err
