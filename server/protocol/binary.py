"""Preview frames: numbers are big-endian uint32, the first says what kind of frame it is."""

from __future__ import annotations

import json
import struct

from server.protocol.messages import Preview

__all__ = ["plain_preview", "preview_with_metadata"]

_PREVIEW, _PREVIEW_WITH_METADATA = 1, 4
_FORMATS = {"image/jpeg": 1, "image/png": 2}


def plain_preview(preview: Preview) -> bytes | None:
    """Frame 1: the format and the picture; None for a picture that is neither JPEG nor PNG."""
    code = _FORMATS.get(preview.media)
    return None if code is None else struct.pack(">II", _PREVIEW, code) + preview.data


def preview_with_metadata(preview: Preview) -> bytes:
    """Frame 4: a JSON object that says whose picture it is, and the picture."""
    about = {
        "node_id": preview.node,
        "display_node_id": preview.display_node,
        "parent_node_id": preview.parent,
        "real_node_id": preview.real,
        "prompt_id": preview.run,
        "image_type": preview.media,
    }
    header = json.dumps(about).encode()
    return struct.pack(">II", _PREVIEW_WITH_METADATA, len(header)) + header + preview.data
