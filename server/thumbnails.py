"""Makes the pictures of the template browser by running its graphs: `python -m server.thumbnails [NAME ...]`."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from graph_engine import Catalogue, Folders
from server.settings import Settings
from server.templates import Example, examples, folder

__all__ = ["grid", "main"]

SIDE = 384  # pixels
_BACKGROUND = (39, 39, 42)
_GAP = 4


def main(names: Sequence[str]) -> None:
    """Run the graphs of these names, or all, and write their pictures. Raises ValueError for a name that is none, and
    CalledProcessError when a graph does not run.
    """
    known = {each.name: each for each in examples()}
    if unknown := sorted(set(names) - known.keys()):
        raise ValueError(f"there is no graph {', '.join(unknown)}; graphs are {', '.join(known)}")
    place = folder() / "thumbnails"
    place.mkdir(exist_ok=True)
    for name in names or known:
        for number, picture in enumerate(_pictures(known[name]), 1):
            picture.save(place / f"{name}-{number}.webp", quality=80, method=6)
        sys.stdout.write(f"{name}\n")


def grid(pictures: Sequence[Image.Image]) -> Image.Image:
    """The pictures as one square: the only one, or up to nine in rows, shown whole."""
    shown = pictures[:9]
    columns = next(count for count in (1, 2, 3) if count * count >= len(shown))
    rows = [shown[at : at + columns] for at in range(0, len(shown), columns)]
    cell = (SIDE - _GAP * (columns - 1)) // columns
    whole = Image.new("RGB", (SIDE, SIDE), _BACKGROUND)
    top = (SIDE - cell * len(rows) - _GAP * (len(rows) - 1)) // 2
    for row in rows:
        left = (SIDE - cell * len(row) - _GAP * (len(row) - 1)) // 2
        for picture in row:
            scale = cell / max(picture.size)
            size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
            small = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
            whole.paste(small, (left + (cell - size[0]) // 2, top + (cell - size[1]) // 2))
            left += cell + _GAP
        top += cell + _GAP
    return whole


def _pictures(example: Example) -> list[Image.Image]:
    """What the card shows: for an edit the picture before and the one after, else everything that the graph saved."""
    file = folder() / f"{example.name}.json"
    with tempfile.TemporaryDirectory(prefix="latentgraph-") as output:
        command = [sys.executable, "-c", "from server.cli import main; main()", "run", str(file), "-o", output, "--json"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        made = [_opened(path) for path in sorted(Path(output).rglob("*.png"))]
    if not example.before_and_after:
        return [grid(made)]
    before, after = [*_loaded(file), *made][:2]
    return [grid([before]), grid([after])]


def _loaded(file: Path) -> list[Image.Image]:
    """The pictures that the graph loads."""
    specs, folders = Catalogue.load().specs, Folders(Settings().home)
    found = []
    for node in json.loads(file.read_bytes()).values():
        for entry in specs[node["class_type"]].inputs:
            if entry.folder == "input" and isinstance(name := node["inputs"].get(entry.name), str):
                found.append(_opened(folders.resolve("input", name, entry.embedded)))
    return found


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        picture.load()
        return picture


if __name__ == "__main__":
    main(sys.argv[1:])
