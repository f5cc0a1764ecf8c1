"""From text to conditioning."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from diffusion.text import encode
from diffusion.values import Clip, Conditioning
from graph_engine.node import Node
from nodes.params import Text, number

if TYPE_CHECKING:
    from graph_engine.context import Context


class CLIPTextEncode(Node, category="conditioning", title="CLIP Text Encode (Prompt)", aliases=("prompt", "text")):
    """Encode a prompt for the denoiser. (word) weighs a word 1.1 times, (word:1.3) as stated; long prompts are encoded in chunks."""

    text: Annotated[Text, Field(description="What to encode.")]
    clip: Annotated[Clip, Field(description="The text encoder.")]

    def run(self, ctx: Context) -> Conditioning:
        return encode(self.clip, self.text, ctx.device)


class CLIPSetLastLayer(Node, category="conditioning", title="CLIP Set Last Layer", aliases=("clip skip",)):
    """Take the text encoder's states from an earlier layer: -1 is the last, -2 the one before ("clip skip 2")."""

    clip: Clip
    stop_at_clip_layer: Annotated[int, number(-24, -1, 1, "Counted from the end.")] = -1

    def run(self, ctx: Context) -> Clip:
        return dataclasses.replace(self.clip, last_layer=self.stop_at_clip_layer)
