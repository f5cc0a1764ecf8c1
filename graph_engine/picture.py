"""Texts that a picture carries beside its pixels: PNG text chunks, and EXIF texts of WebP and JPEG."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

__all__ = ["NoPicture", "read_texts"]

_LARGEST = 64 << 20  # a text that unpacks to more is an attack, not a workflow
_PNG = b"\x89PNG\r\n\x1a\n"


class NoPicture(ValueError):
    """The data is not a PNG, WebP or JPEG."""


def read_texts(data: bytes) -> dict[str, str]:
    """Texts by keyword: `tEXt`, `zTXt` and `iTXt` of a PNG (PNG specification, 3rd edition, 11.3.3), `key:text` EXIF
    tags of WebP and JPEG.

    Raises NoPicture for any other kind of data and ValueError when the picture is cut off or damaged.
    """
    if data.startswith(_PNG):
        return dict(_png(data))
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return dict(_exif(data, _webp_exif(data)))
    if data[:3] == b"\xff\xd8\xff":
        return dict(_exif(data, _jpeg_exif(data)))
    raise NoPicture("not a PNG, WebP or JPEG")


def _png(data: bytes) -> Iterator[tuple[str, str]]:
    at = len(_PNG)
    while at < len(data):
        if at + 12 > len(data):
            raise ValueError("the PNG is cut off")
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + size]
        if len(body) < size:
            raise ValueError("the PNG is cut off")
        if kind == b"IEND":
            return
        if kind in (b"tEXt", b"zTXt", b"iTXt"):
            keyword, _, rest = body.partition(b"\0")
            yield keyword.decode("latin-1"), _png_text(kind, rest)
        at += size + 12


def _png_text(kind: bytes, rest: bytes) -> str:
    if kind == b"tEXt":
        return rest.decode("latin-1")
    if kind == b"zTXt":
        return _inflate(rest[1:]).decode("latin-1")
    packed, rest = rest[:1] == b"\1", rest[2:]
    _language, _, rest = rest.partition(b"\0")
    _translated, _, text = rest.partition(b"\0")
    return (_inflate(text) if packed else text).decode("utf-8", "replace")


def _inflate(data: bytes) -> bytes:
    unpack = zlib.decompressobj()
    try:
        text = unpack.decompress(data, _LARGEST)
    except zlib.error as error:
        raise ValueError(f"a compressed text of the PNG is damaged: {error}") from error
    if unpack.unconsumed_tail:
        raise ValueError("a compressed text of the PNG is too large")
    return text


def _webp_exif(data: bytes) -> int | None:
    """Where the TIFF block of a WebP starts."""
    at = 12
    while at + 8 <= len(data):
        kind, size = struct.unpack("<4sI", data[at : at + 8])
        if kind == b"EXIF":
            return at + 8 + (6 if data[at + 8 : at + 14] == b"Exif\0\0" else 0)
        at += 8 + size + (size & 1)
    return None


def _jpeg_exif(data: bytes) -> int | None:
    """Where the TIFF block of a JPEG starts."""
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF and data[at + 1] not in (0xDA, 0xD9):
        if data[at + 1] == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
            return at + 10
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _exif(data: bytes, start: int | None) -> Iterator[tuple[str, str]]:
    """ASCII tags of the first directory that read `key:text` (TIFF 6.0, section 2)."""
    if start is None:
        return
    order = {b"II": "<", b"MM": ">"}.get(data[start : start + 2])
    if order is None:
        raise ValueError("the EXIF block is damaged")
    try:
        (offset,) = struct.unpack_from(order + "I", data, start + 4)
        (count,) = struct.unpack_from(order + "H", data, start + offset)
        for n in range(count):
            at = start + offset + 2 + 12 * n
            _tag, kind, size = struct.unpack_from(order + "HHI", data, at)
            if kind != 2:
                continue
            where = at + 8 if size <= 4 else start + struct.unpack_from(order + "I", data, at + 8)[0]
            key, colon, text = data[where : where + size].rstrip(b"\0").decode("utf-8", "replace").partition(":")
            if colon:
                yield key.lower(), text
    except struct.error as error:
        raise ValueError("the EXIF block is cut off") from error
