"""Lay pictures side by side, twice as large: `python docs/strip.py OUT.png PICTURE...`; the README's are made by it (`make picture`)."""

import sys

from PIL import Image

GAP, SCALE = 8, 2


def sheet(pictures: list[Image.Image], columns: int, scale: int = 1) -> Image.Image:
    """Pictures of one size in rows, on white."""
    width, height = (scale * side for side in pictures[0].size)
    rows = -(-len(pictures) // columns)
    whole = Image.new("RGB", (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP), "white")
    for at, picture in enumerate(pictures):
        large = picture.convert("RGB").resize((width, height), Image.Resampling.NEAREST)
        whole.paste(large, (at % columns * (width + GAP), at // columns * (height + GAP)))
    return whole


if __name__ == "__main__":
    found = [Image.open(path) for path in sys.argv[2:]]
    sheet(found, len(found), SCALE).save(sys.argv[1], optimize=True)
