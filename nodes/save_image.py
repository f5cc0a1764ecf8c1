"""Pictures to files, each with the workflow that made it."""

from __future__ import annotations

import json
import secrets
from functools import partial
from typing import TYPE_CHECKING, Annotated, BinaryIO

from PIL import Image as Picture
from PIL.PngImagePlugin import PngInfo
from pydantic import Field

from diffusion.image import to_pil
from diffusion.values import Image, Mask
from graph_engine.node import Node
from nodes.params import FilenamePrefix

if TYPE_CHECKING:
    from graph_engine.context import Context


def texts(ctx: Context) -> PngInfo:
    """The text chunks of a picture: `prompt`, the workflow of this run, and what the editor sent along, such as its own `workflow`.

    JSON in ASCII, so that it goes into a plain tEXt chunk, which every reader knows.
    """
    info = PngInfo()
    if ctx.workflow:
        info.add_text("prompt", json.dumps(ctx.workflow))
    for name, content in dict(ctx.extra.get("extra_pnginfo") or {}).items():
        info.add_text(name, json.dumps(content))
    return info


def write_png(picture: Picture.Image, info: PngInfo, compress_level: int, file: BinaryIO) -> None:
    """Encode one picture into an open file."""
    picture.save(file, "PNG", pnginfo=info, compress_level=compress_level)


_PREVIEW = f"preview_{secrets.token_hex(4)}"  # of this process: nobody may guess at its files


class SaveImage(Node, category="image", title="Save Image", output=True, aliases=("export", "write")):
    """Write pictures as PNG files into the output folder, numbered; each carries its workflow and can be run again."""

    images: Annotated[Image, Field(description="What to save.")]
    filename_prefix: FilenamePrefix = "ComfyUI"

    def run(self, ctx: Context) -> None:
        info = texts(ctx)
        height, width = self.images.pixels.shape[1:3]
        for number, picture in enumerate(to_pil(self.images.pixels)):
            ctx.check()
            write = partial(write_png, picture, info, 4)
            ctx.save(self.filename_prefix, ".png", write, width=width, height=height, batch_num=number)


class PreviewImage(Node, category="image", title="Preview Image", output=True, aliases=("show", "look")):
    """Show pictures without keeping them: they go to the temporary folder."""

    images: Annotated[Image, Field(description="What to show.")]

    def run(self, ctx: Context) -> None:
        info = texts(ctx)
        for picture in to_pil(self.images.pixels):
            ctx.check()
            ctx.save(_PREVIEW, ".png", partial(write_png, picture, info, 1), kind="temp")


class MaskPreview(Node, category="mask", title="Preview Mask", output=True, aliases=("show", "look")):
    """Show masks as grey pictures without keeping them."""

    mask: Annotated[Mask, Field(description="What to show.")]

    def run(self, ctx: Context) -> None:
        info = texts(ctx)
        for picture in to_pil(self.mask.values[..., None]):
            ctx.check()
            ctx.save(_PREVIEW, ".png", partial(write_png, picture, info, 1), kind="temp")
