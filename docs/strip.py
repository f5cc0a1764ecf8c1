"""Lay pictures side by side, twice as large: `python docs/strip.py OUT.png PICTURE...`; the README's are made by it (`make picture`)."""

import sys

from PIL import Image

GAP, SCALE = 8, 2


def strip(pictures: list[Image.Image]) -> Image.Image:
    """Pictures of one height in a row, on white."""
    large = [
        picture.convert("RGB").resize((SCALE * picture.width, SCALE * picture.height), Image.Resampling.NEAREST) for picture in pictures
    ]
    row = Image.new("RGB", (sum(each.width + GAP for each in large) - GAP, large[0].height), "white")
    left = 0
    for each in large:
        row.paste(each, (left, 0))
        left += each.width + GAP
    return row


if __name__ == "__main__":
    strip([Image.open(path) for path in sys.argv[2:]]).save(sys.argv[1], optimize=True)
