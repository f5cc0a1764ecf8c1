"""CLIP picture encoders: open one, and what it says of pictures (Radford et al. 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from diffusion.values import Image
from diffusion.vision import ClipVision, ClipVisionOutput, look, open_vision
from graph_engine.errors import NodeError
from graph_engine.node import File, Node

if TYPE_CHECKING:
    from graph_engine.context import Context

VisionFile = Annotated[
    str,
    File("clip_vision"),
    Field(description="A CLIP picture encoder, such as the ViT-H/14 that most IP-Adapters read."),
]


class CLIPVisionLoader(Node, category="loaders", title="Load CLIP Vision", aliases=("image encoder", "ip-adapter")):
    """Open a CLIP picture encoder; ViT-L, ViT-H and bigG are told apart by their weights."""

    clip_name: VisionFile

    def run(self, ctx: Context) -> ClipVision:
        try:
            return open_vision(ctx.path("clip_vision", self.clip_name))
        except (ValueError, OSError) as problem:
            raise NodeError(f"clip_name: {problem}") from problem


class CLIPVisionEncode(Node, category="conditioning", title="CLIP Vision Encode", aliases=("image embedding",)):
    """What a CLIP picture encoder says of pictures: an embedding of each, and its states."""

    clip_vision: ClipVision
    image: Image
    crop: Annotated[
        Literal["center", "none"],
        Field(description="center: only the middle square is seen; none: the whole picture, squashed to a square."),
    ] = "center"

    def run(self, ctx: Context) -> ClipVisionOutput:
        return look(self.clip_vision, self.image.pixels, ctx.device, self.crop, ctx.check)
