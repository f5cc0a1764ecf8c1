"""Previews no larger than they are worth on a wire."""

from __future__ import annotations

import dataclasses
import io

from PIL import Image

from server.protocol.messages import Preview

__all__ = ["fitted"]

_QUALITY = 90
_PIXELS = 64_000_000  # more are not decoded
_FORMATS = {"image/jpeg": "JPEG", "image/png": "PNG"}


def fitted(preview: Preview, longest: int) -> Preview | None:
    """The preview with at most `longest` pixels along its longer side, as JPEG or PNG; None when it is no picture that can be read."""
    try:
        with Image.open(io.BytesIO(preview.data)) as picture:
            if max(picture.size) <= longest and picture.format == _FORMATS.get(preview.media):
                return preview
            if picture.width * picture.height > _PIXELS:
                return None
            picture.draft("RGB", (longest, longest))  # a JPEG is decoded at a fraction of its size
            small = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None  # a node made it; its run goes on without a picture
    small.thumbnail((longest, longest))
    media = "image/png" if small.mode == "RGBA" else "image/jpeg"
    out = io.BytesIO()
    small.save(out, _FORMATS[media], quality=_QUALITY)
    return dataclasses.replace(preview, media=media, data=out.getvalue())
