"""Pictures from files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image as Picture
from PIL import ImageOps, ImageSequence, UnidentifiedImageError
from pydantic import Field
from torch import Tensor

from diffusion.values import Image, Mask
from graph_engine.errors import NodeError
from graph_engine.node import File, Node
from nodes.params import PICTURES, InputImage

if TYPE_CHECKING:
    from graph_engine.context import Context

OutputImage = Annotated[str, File("output"), Field(description="A picture that was saved before.")]
MOST_PIXELS = 2**27  # of all frames together; as floats they take 1.5 GiB
NO_ALPHA = (64, 64)  # the size of the mask that stands for "no alpha"


@contextmanager
def opened(path: Path, name: str) -> Iterator[Picture.Image]:
    """The picture in a file, checked for size before its pixels are read.

    Raises NodeError, naming it, when the file is no picture, broken, or larger than MOST_PIXELS; also for what goes wrong in the block.
    """
    try:
        with Picture.open(path) as picture:
            pixels = picture.width * picture.height * getattr(picture, "n_frames", 1)
            if pixels > MOST_PIXELS:
                raise NodeError(f"image: {name!r} has {pixels:,} pixels, at most {MOST_PIXELS:,} are read")
            yield picture
    except (Picture.DecompressionBombError, Picture.DecompressionBombWarning) as problem:
        raise NodeError(f"image: {name!r} has too many pixels, at most {MOST_PIXELS:,} are read") from problem
    except UnidentifiedImageError as problem:
        raise NodeError(f"image: {name!r} is not a picture of a known format") from problem
    except (NodeError, MemoryError):
        raise
    except Exception as problem:  # for a broken file Pillow's plugins raise nearly anything: OSError, SyntaxError, struct.error, TypeError
        raise NodeError(f"image: {name!r} cannot be read: {str(problem) or type(problem).__name__}") from problem


def upright(frame: Picture.Image) -> Picture.Image:
    """The frame turned as its EXIF says, whole-number modes brought to 8 bits (value / 255, as ComfyUI does)."""
    frame = ImageOps.exif_transpose(frame)
    if frame.mode == "I" or frame.mode.startswith("I;16"):
        levels = np.clip(np.asarray(frame).astype(np.int64) / 255, 0, 255).astype(np.uint8)
        return Picture.fromarray(levels)
    if frame.mode == "F":
        return Picture.fromarray(np.clip(np.nan_to_num(np.asarray(frame)), 0, 255).astype(np.uint8))
    return frame


def _unit(picture: Picture.Image) -> Tensor:
    """8-bit levels as floats from 0 to 1."""
    return torch.from_numpy(np.array(picture, dtype=np.float32) / 255)


def alpha_of(frame: Picture.Image) -> Tensor | None:
    """The alpha channel [h, w] from 0 to 1, also that of a palette with transparent colours; None without one."""
    if "A" in frame.getbands():
        return _unit(frame.getchannel("A"))
    if frame.mode == "P" and "transparency" in frame.info:
        return _unit(frame.convert("RGBA").getchannel("A"))
    return None


def frames_of(picture: Picture.Image) -> tuple[Tensor, Tensor]:
    """All frames of the first one's size, [b, h, w, 3], and masks 1 − alpha, [b, h, w], or [b, 64, 64] of zeros where nothing has alpha."""
    pixels: list[Tensor] = []
    alphas: list[Tensor | None] = []
    for raw in ImageSequence.Iterator(picture):
        frame = upright(raw)
        color = _unit(frame.convert("RGB"))
        if pixels and color.shape != pixels[0].shape:
            continue
        pixels.append(color)
        alphas.append(alpha_of(frame))
        if picture.format == "MPO":  # a photograph with views of itself, not a sequence
            break
    if all(alpha is None for alpha in alphas):
        return torch.stack(pixels), torch.zeros(len(pixels), *NO_ALPHA)
    opaque = torch.ones(pixels[0].shape[:2])
    return torch.stack(pixels), torch.stack([1 - (opaque if alpha is None else alpha) for alpha in alphas])


class LoadImage(Node, category="image", title="Load Image", aliases=("open", "picture")):
    """A picture from the input folder, and its transparency as a mask."""

    image: InputImage

    class Out(NamedTuple):
        image: Image
        mask: Annotated[Mask, Field(description="1 − alpha; 64 × 64 zeros for a picture without alpha.")]

    def run(self, ctx: Context) -> Out:
        with opened(ctx.path("input", self.image, PICTURES), self.image) as picture:
            pixels, mask = frames_of(picture)
        return self.Out(Image(pixels), Mask(mask))


class LoadImageOutput(Node, category="image", title="Load Image (from Outputs)", aliases=("open", "picture", "result")):
    """A picture from the output folder, and its transparency as a mask."""

    image: OutputImage

    class Out(NamedTuple):
        image: Image
        mask: Annotated[Mask, Field(description="1 − alpha; 64 × 64 zeros for a picture without alpha.")]

    def run(self, ctx: Context) -> Out:
        with opened(ctx.path("output", self.image), self.image) as picture:
            pixels, mask = frames_of(picture)
        return self.Out(Image(pixels), Mask(mask))


class LoadImageMask(Node, category="mask", title="Load Image (as Mask)", aliases=("open", "alpha")):
    """One channel of a picture in the input folder as a mask; alpha is inverted, colours are not."""

    image: InputImage
    channel: Annotated[Literal["alpha", "red", "green", "blue"], Field(description="A picture without alpha counts as opaque.")] = "alpha"

    def run(self, ctx: Context) -> Mask:
        with opened(ctx.path("input", self.image, PICTURES), self.image) as picture:
            values = _unit(upright(picture).convert("RGBA").getchannel(self.channel[0].upper()))
        return Mask((1 - values if self.channel == "alpha" else values)[None])
