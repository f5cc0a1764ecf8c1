from __future__ import annotations

import json
import struct

from server.protocol.binary import plain_preview, preview_with_metadata
from server.protocol.messages import Preview

PREVIEW = Preview("r", "2.0", "2", "2", "2", "image/jpeg", b"\xff\xd8picture")


def test_frame_1_is_its_number_the_format_and_the_picture():
    assert plain_preview(PREVIEW) == bytes([0, 0, 0, 1, 0, 0, 0, 1]) + b"\xff\xd8picture"
    png = Preview("r", "2", "2", None, "2", "image/png", b"\x89PNG")
    assert plain_preview(png) == bytes([0, 0, 0, 1, 0, 0, 0, 2]) + b"\x89PNG"
    assert plain_preview(Preview("r", "2", "2", None, "2", "image/webp", b"RIFF")) is None


def test_frame_4_says_whose_picture_it_is():
    frame = preview_with_metadata(PREVIEW)
    kind, length = struct.unpack(">II", frame[:8])
    assert kind == 4
    assert json.loads(frame[8 : 8 + length]) == {
        "node_id": "2.0",
        "display_node_id": "2",
        "parent_node_id": "2",
        "real_node_id": "2",
        "prompt_id": "r",
        "image_type": "image/jpeg",
    }
    assert frame[8 + length :] == b"\xff\xd8picture"
