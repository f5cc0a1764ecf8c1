import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Picture

from graph_engine.errors import NodeError
from nodes import image_files
from nodes.image_files import LoadImage, LoadImageMask, LoadImageOutput

RGBA = np.random.default_rng(0).integers(0, 256, (5, 7, 4), dtype=np.uint8)


@pytest.fixture
def inputs(ctx) -> Path:
    return ctx.folders.places("input")[0]


def load(ctx, name: str) -> LoadImage.Out:
    return LoadImage(image=name).run(ctx)


def test_a_picture_with_alpha_gives_colours_and_one_minus_alpha(ctx, inputs):
    Picture.fromarray(RGBA).save(inputs / "a.png")
    out = load(ctx, "a.png")
    assert torch.allclose(out.image.pixels[0], torch.from_numpy(RGBA[..., :3].astype(np.float32)) / 255)
    assert torch.allclose(out.mask.values[0], 1 - torch.from_numpy(RGBA[..., 3].astype(np.float32)) / 255)


def test_a_picture_without_alpha_gives_an_empty_mask_of_64_by_64(ctx, inputs):
    Picture.fromarray(RGBA[..., :3]).save(inputs / "a.png")
    assert torch.equal(load(ctx, "a.png").mask.values, torch.zeros(1, 64, 64))


def test_grey_palette_and_16_bit_pictures_become_rgb(ctx, inputs):
    Picture.fromarray(RGBA[..., 0]).save(inputs / "l.png")
    assert torch.equal(load(ctx, "l.png").image.pixels[0, ..., 2] * 255, torch.from_numpy(RGBA[..., 0].astype(np.float32)))
    deep = RGBA[..., 0].astype(np.uint16) * 257
    Picture.fromarray(deep).save(inputs / "deep.png")
    wanted = np.clip(deep.astype(np.int64) / 255, 0, 255).astype(np.uint8)
    assert torch.equal((load(ctx, "deep.png").image.pixels[0, ..., 0] * 255).round(), torch.from_numpy(wanted.astype(np.float32)))
    palette = Picture.new("P", (4, 4), 1)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((0, 0), 0)
    palette.save(inputs / "p.png", transparency=0)
    out = load(ctx, "p.png")
    assert out.image.pixels[0, 1, 1].tolist() == [0, 0, 1]
    assert out.mask.values[0, 0, :2].tolist() == [1, 0]


def test_exif_turns_the_picture(ctx, inputs):
    exif = Picture.Exif()
    exif[0x0112] = 6  # to be turned clockwise for viewing
    Picture.fromarray(RGBA[..., :3]).save(inputs / "turned.png", exif=exif)
    out = load(ctx, "turned.png").image.pixels[0]
    assert torch.allclose(out, torch.from_numpy(np.rot90(RGBA[..., :3], -1).astype(np.float32)) / 255)


def test_frames_become_a_batch_and_those_of_other_size_are_dropped(ctx, inputs):
    frames = [Picture.fromarray(RGBA[..., :3] // (i + 1)) for i in range(3)]
    frames[1] = frames[1].resize((3, 3))
    frames[0].save(inputs / "a.tiff", save_all=True, append_images=frames[1:])
    out = load(ctx, "a.tiff")
    wanted = np.stack([RGBA[..., :3], RGBA[..., :3] // 3]).astype(np.float32)
    assert torch.equal((out.image.pixels * 255).round(), torch.from_numpy(wanted))
    assert torch.equal(out.mask.values, torch.zeros(2, 64, 64))


def test_channels_as_masks_where_only_alpha_is_inverted(ctx, inputs):
    Picture.fromarray(RGBA).save(inputs / "a.png")
    for i, channel in enumerate(("red", "green", "blue", "alpha")):
        levels = torch.from_numpy(RGBA[..., i].astype(np.float32)) / 255
        out = LoadImageMask(image="a.png", channel=channel).run(ctx).values[0]
        assert torch.allclose(out, 1 - levels if channel == "alpha" else levels)
    Picture.fromarray(RGBA[..., :3]).save(inputs / "opaque.png")
    assert torch.equal(LoadImageMask(image="opaque.png").run(ctx).values, torch.zeros(1, 5, 7))


@pytest.mark.parametrize("node", [LoadImage, LoadImageMask])
def test_files_that_are_no_pictures_are_named_in_one_sentence(ctx, inputs, node):
    (inputs / "text.png").write_text("no picture")
    with pytest.raises(NodeError, match=r"^image: 'text\.png' is not a picture of a known format$"):
        node(image="text.png").run(ctx)
    Picture.fromarray(RGBA.repeat(40, 0).repeat(40, 1)).save(inputs / "whole.png")
    (inputs / "half.png").write_bytes((inputs / "whole.png").read_bytes()[:500])
    with pytest.raises(NodeError, match=r"^image: 'half\.png' cannot be read: "):
        node(image="half.png").run(ctx)
    with pytest.raises(NodeError, match="there is no"):
        node(image="none.png").run(ctx)


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_header(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(b""))


def test_decompression_bombs_are_refused_before_they_unpack(ctx, inputs, monkeypatch):
    (inputs / "bomb.png").write_bytes(png_header(60000, 60000))
    with pytest.raises(
        NodeError, match=r"image: 'bomb\.png' has (too many|3,600,000,000) pixels"
    ):  # Pillow has a limit of its own, and a server lifts it
        load(ctx, "bomb.png")
    monkeypatch.setattr(image_files, "MOST_PIXELS", 2 * 5 * 7)
    frame = Picture.fromarray(RGBA[..., :3])
    frame.save(inputs / "many.tiff", save_all=True, append_images=[frame, frame])
    with pytest.raises(NodeError, match=r"image: 'many\.tiff' has 105 pixels, at most 70 are read"):
        load(ctx, "many.tiff")


def test_a_saved_picture_is_loaded_from_the_output_folder(ctx):
    folder = ctx.folders.base / "output" / "sub"
    folder.mkdir(parents=True)
    Picture.new("RGBA", (5, 4), (255, 0, 51, 102)).save(folder / "a.png")
    out = LoadImageOutput(image="sub/a.png").run(ctx)
    assert out.image.pixels.shape == (1, 4, 5, 3)
    assert out.image.pixels[0, 0, 0].tolist() == pytest.approx([1, 0, 0.2])
    assert out.mask.values[0, 0, 0] == pytest.approx(0.6)
