"""As what a file goes out: a page of ours never runs or renders what somebody stored."""

from __future__ import annotations

from pathlib import PurePath

__all__ = ["PICTURES", "STORED", "media_type"]

PICTURES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".bmp": "image/bmp",
    ".avif": "image/avif",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
}
_OTHERS = {
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".mov": "video/quicktime",
    ".mp3": "audio/mpeg",
    ".wav": "audio/wav",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".flac": "audio/flac",
    ".m4a": "audio/mp4",
    ".glb": "model/gltf-binary",
    ".txt": "text/plain; charset=utf-8",
    ".json": "application/json",
}
_UNKNOWN = "application/octet-stream"
STORED = {  # headers that go with any stored file
    "X-Content-Type-Options": "nosniff",
    # even a type that a browser renders gets no scripts, no frames and no origin of its own
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'; sandbox",
    "Cache-Control": "no-cache",  # a name can be written again; the ETag says whether it was
}


def media_type(name: str) -> tuple[str, bool]:
    """The Content-Type of a file by its suffix, and whether a browser may show it in place. Everything that could hold
    a script (HTML, SVG, XML, JavaScript, CSS, PDF, …) and everything unknown is bytes to download.
    """
    suffix = PurePath(name).suffix.lower()
    known = PICTURES.get(suffix) or _OTHERS.get(suffix)
    return (known, True) if known else (_UNKNOWN, False)
