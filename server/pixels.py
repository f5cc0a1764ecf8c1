"""Pictures inside the server process: looked at before they are decoded, re-encoded for the page."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import BinaryIO

from PIL import Image, PngImagePlugin, UnidentifiedImageError

__all__ = ["NotThis", "TooManyPixels", "channel", "look", "preview", "with_mask"]

Image.MAX_IMAGE_PIXELS = None  # the limit below counts instead: it is a setting, and a refusal rather than a warning

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")  # no reader that starts a program or follows a reference


class NotThis(ValueError):
    """The data is not a picture, or a damaged one, or does not fit."""


class TooManyPixels(NotThis):
    """The picture has more pixels than the server decodes."""


def look(source: Path | BinaryIO, limit: int) -> tuple[str, tuple[int, int]]:
    """Format and size of a picture from its first bytes. Raises NotThis when it is none, TooManyPixels above `limit`."""
    with _open(source, limit) as image:
        return str(image.format), image.size


def preview(path: Path, wanted: str, limit: int, *, alpha: bool = True) -> tuple[bytes, str]:
    """The picture re-encoded as `webp;90` or `jpeg;80` asks (anything else: WebP), and its Content-Type."""
    kind, _, quality = wanted.partition(";")
    level = min(int(quality), 100) if re.fullmatch(r"[0-9]{1,3}", quality) else 90
    with _open(path, limit) as image:
        frame = _decoded(image)
        if kind.strip().lower() in ("jpeg", "jpg"):
            return _encoded(frame.convert("RGB"), "JPEG", quality=level), "image/jpeg"
        return _encoded(frame.convert("RGBA" if alpha and _has_alpha(frame) else "RGB"), "WEBP", quality=level), "image/webp"


def channel(path: Path, wanted: str, limit: int) -> bytes:
    """A PNG of the colours alone (`rgb`), or one whose alpha is that of the picture and whose colours are black (`a`)."""
    with _open(path, limit) as image:
        frame = _decoded(image).convert("RGBA")
        if wanted == "rgb":
            return _encoded(frame.convert("RGB"), "PNG")
        alone = Image.new("RGBA", frame.size)
        alone.putalpha(frame.getchannel("A"))
        return _encoded(alone, "PNG")


def with_mask(original: Path, mask: BinaryIO, limit: int) -> bytes:
    """A PNG of the original's colours and texts with the alpha of the mask. Raises NotThis when their sizes differ."""
    with _open(original, limit) as image, _open(mask, limit) as other:
        if image.size != other.size:
            raise NotThis(f"the mask is {_times(other.size)}, the picture {_times(image.size)}")
        made = _decoded(image).convert("RGBA")
        made.putalpha(_decoded(other).convert("RGBA").getchannel("A"))
        texts = PngImagePlugin.PngInfo()
        for key, text in getattr(image, "text", {}).items():
            texts.add_text(key, str(text))  # never compressed: editors cannot read that
        return _encoded(made, "PNG", pnginfo=texts, compress_level=4)


def _open(source: Path | BinaryIO, limit: int) -> Image.Image:
    try:
        image = Image.open(source, formats=FORMATS)
    except UnidentifiedImageError:
        raise NotThis("the file is not a PNG, JPEG, WebP, GIF, BMP, TIFF or AVIF picture") from None
    except (OSError, ValueError, SyntaxError, EOFError, OverflowError) as error:
        raise NotThis(f"the picture cannot be read: {error}") from error
    if image.width * image.height > limit:
        image.close()
        raise TooManyPixels(f"the picture is {_times(image.size)}; at most {limit} pixels are taken")
    return image


def _decoded(image: Image.Image) -> Image.Image:
    try:
        image.load()
    except (OSError, ValueError, SyntaxError, EOFError, OverflowError, MemoryError) as error:
        raise NotThis(f"the picture is damaged: {error}") from error
    return image


def _has_alpha(image: Image.Image) -> bool:
    return "A" in image.getbands() or "transparency" in image.info


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    try:
        image.save(out, kind, **options)
    except (OSError, ValueError) as error:  # as WebP for a side above 16383
        raise NotThis(f"a {_times(image.size)} picture cannot be written as {kind}: {error}") from error
    return out.getvalue()


def _times(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"
