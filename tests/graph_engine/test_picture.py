from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from graph_engine.errors import WorkflowError
from graph_engine.picture import NoPicture, read_texts
from graph_engine.workflow import Workflow

GRAPH = {"1": {"class_type": "Blank", "inputs": {"text": "naïve – 画"}}}
PROMPT = json.dumps(GRAPH, ensure_ascii=False)
EDITOR = json.dumps({"nodes": [], "links": []})


def png(texts: dict[str, str], *, international: bool = False, packed: bool = False) -> bytes:
    info = PngInfo()
    for key, text in texts.items():
        if international:
            info.add_itxt(key, text, zip=packed)
        else:
            info.add_text(key, text, zip=packed)
    out = io.BytesIO()
    Image.new("RGB", (2, 2)).save(out, "PNG", pnginfo=info)
    return out.getvalue()


def exif(kind: str, tags: dict[int, str]) -> bytes:
    found = Image.Exif()
    for tag, text in tags.items():
        found[tag] = text
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, kind, exif=found)
    return out.getvalue()


@pytest.mark.parametrize("international", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_every_kind_of_png_text_is_read(international: bool, packed: bool) -> None:
    text = json.dumps(GRAPH)
    assert read_texts(png({"prompt": text, "more": ""}, international=international, packed=packed)) == {"prompt": text, "more": ""}


def test_text_beyond_latin_is_read() -> None:
    assert read_texts(png({"prompt": PROMPT}, international=True))["prompt"] == PROMPT


@pytest.mark.parametrize("kind", ["WEBP", "JPEG"])
def test_exif_texts_are_read(kind: str) -> None:
    data = exif(kind, {0x010F: "workflow:" + EDITOR, 0x0110: "prompt:" + json.dumps(GRAPH), 0x0131: "no pair"})
    assert read_texts(data) == {"workflow": EDITOR, "prompt": json.dumps(GRAPH)}


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_a_picture_without_texts_has_none(kind: str) -> None:
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, kind)
    assert read_texts(out.getvalue()) == {}


@pytest.mark.parametrize("data", [b"", b"{}", b"GIF89a", b"RIFF1234WAVE"])
def test_other_data_is_no_picture(data: bytes) -> None:
    with pytest.raises(NoPicture):
        read_texts(data)


PICTURES = [
    png({"prompt": PROMPT}, international=True, packed=True),
    png({"prompt": json.dumps(GRAPH)}),
    exif("WEBP", {0x0110: "prompt:" + json.dumps(GRAPH)}),
    exif("JPEG", {0x0110: "prompt:" + json.dumps(GRAPH)}),
]


@given(st.sampled_from(PICTURES), st.data())
def test_damage_gives_texts_or_a_value_error(picture: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(picture)))
    place = data.draw(st.integers(0, len(picture) - 1))
    damaged = bytearray(picture)
    damaged[place] = data.draw(st.integers(0, 255))
    for piece in (picture[:cut], bytes(damaged)):
        try:
            assert isinstance(read_texts(piece), dict)
        except ValueError:
            continue


def test_a_text_that_unpacks_to_too_much_is_refused() -> None:
    packed = zlib.compress(b"a" * (65 << 20), 9)
    body = b"prompt\0\0" + packed
    chunk = struct.pack(">I4s", len(body), b"zTXt") + body + b"\0\0\0\0"
    with pytest.raises(ValueError, match="too large"):
        read_texts(b"\x89PNG\r\n\x1a\n" + chunk)


@pytest.mark.parametrize("data", PICTURES[1:])
def test_a_workflow_is_loaded_from_a_picture(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "any.name").write_bytes(data)
    assert Workflow.load(tmp_path / "any.name").to_json() == GRAPH


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (png({}), "no_workflow"),
        (png({"workflow": EDITOR}), "editor_format"),
        (png({"prompt": "{"}), "bad_json"),
        (png({"prompt": "{}"})[:60], "no_workflow"),
        (b"", "bad_json"),
    ],
)
def test_a_picture_without_a_readable_workflow_is_refused(data: bytes, code: str, tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(data)
    with pytest.raises(WorkflowError) as caught:
        Workflow.load(tmp_path / "p.png")
    assert caught.value.problems[0].code == code


def test_bytes_after_the_end_are_passed_over() -> None:
    data = png({"prompt": "{}"}) + b"trailing bytes"
    assert read_texts(data) == {"prompt": "{}"}
