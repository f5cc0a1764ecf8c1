"""From text to conditioning."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from diffusion.embedding import SUFFIXES, Vectors, read_embedding
from diffusion.text import encode
from diffusion.values import Clip, Conditioning, Size
from graph_engine.errors import NodeError
from graph_engine.node import Node
from nodes.params import MAX_SIDE, Text, number

if TYPE_CHECKING:
    from graph_engine.context import Context

TheClip = Annotated[Clip, Field(description="The text encoder.")]
Side = Annotated[int, number(0, MAX_SIDE, 1, "What the model is told about the picture's size, in pixels.")]
Cut = Annotated[int, number(0, MAX_SIDE, 1, "What the model is told was cut off at the left or top, in pixels.")]


class CLIPTextEncode(Node, category="conditioning", title="CLIP Text Encode (Prompt)", aliases=("prompt", "text")):
    """Encode a prompt for the denoiser. (word) weighs a word 1.1 times, (word:1.3) as stated; long prompts are encoded in chunks.

    embedding:name reads a learned word from the embeddings folder.
    """

    text: Annotated[Text, Field(description="What to encode.")]
    clip: TheClip

    def run(self, ctx: Context) -> Conditioning:
        return encode(self.clip, self.text, ctx.device, find=partial(find_word, ctx))


class CLIPTextEncodeBreak(Node, category="conditioning", title="CLIP Text Encode (BREAK)", aliases=("prompt", "chunks", "a1111")):
    """Encode a prompt in which the word BREAK begins a new chunk of 75 tokens, so that what follows is read apart from what stands before.

    A rule of prompts written for AUTOMATIC1111's web UI; CLIPTextEncode takes BREAK as a word like any other.
    """

    text: Annotated[Text, Field(description="What to encode.")]
    clip: TheClip

    def run(self, ctx: Context) -> Conditioning:
        return encode(self.clip, self.text, ctx.device, breaks=True, find=partial(find_word, ctx))


class CLIPTextEncodeSDXL(Node, category="advanced/conditioning", title="CLIP Text Encode (SDXL)"):
    """Encode a prompt for each of SDXL's text encoders, and tell the model sizes."""

    clip: TheClip
    width: Side = 1024
    height: Side = 1024
    crop_w: Cut = 0
    crop_h: Cut = 0
    target_width: Side = 1024
    target_height: Side = 1024
    text_g: Annotated[Text, Field(description="For the larger encoder, OpenCLIP bigG.")]
    text_l: Annotated[Text, Field(description="For the smaller encoder, CLIP-L.")]

    def run(self, ctx: Context) -> Conditioning:
        size = Size(self.height, self.width, self.crop_h, self.crop_w, self.target_height, self.target_width)
        texts = {"g": self.text_g, "l": self.text_l, "": self.text_l}
        return encode(self.clip, texts, ctx.device, find=partial(find_word, ctx)).map(size=size)


class CLIPTextEncodeSDXLRefiner(Node, category="advanced/conditioning", title="CLIP Text Encode (SDXL Refiner)"):
    """Encode a prompt for SDXL's refiner, and tell it a size and how pretty the picture should be."""

    ascore: Annotated[float, number(0, 1000, 0.01, "Aesthetic score: 6 for what is wanted, 2.5 for what is not.")] = 6.0
    width: Side = 1024
    height: Side = 1024
    text: Annotated[Text, Field(description="What to encode.")]
    clip: TheClip

    def run(self, ctx: Context) -> Conditioning:
        size = Size(self.height, self.width, aesthetic=self.ascore)
        return encode(self.clip, self.text, ctx.device, find=partial(find_word, ctx)).map(size=size)


class CLIPTextEncodeControlnet(Node, category="conditioning/controlnet", title="CLIP Text Encode (ControlNet)", aliases=("prompt",)):
    """Encode a prompt that only ControlNets read; the denoiser still reads the conditioning's own. T2I-Adapters read none."""

    clip: TheClip
    conditioning: Annotated[Conditioning, Field(description="What the denoiser reads.")]
    text: Annotated[Text, Field(description="What control networks read instead.")]

    def run(self, ctx: Context) -> Conditioning:
        (entry,) = encode(self.clip, self.text, ctx.device, find=partial(find_word, ctx))
        return self.conditioning.map(control_embeds=entry.embeds)


class CLIPSetLastLayer(Node, category="conditioning", title="CLIP Set Last Layer", aliases=("clip skip",)):
    """Take the text encoder's states from an earlier layer: -1 is the last, -2 the one before ("clip skip 2")."""

    clip: TheClip
    stop_at_clip_layer: Annotated[int, number(-24, -1, 1, "Counted from the end.")] = -1

    def run(self, ctx: Context) -> Clip:
        return dataclasses.replace(self.clip, last_layer=self.stop_at_clip_layer)


def find_word(ctx: Context, name: str) -> Vectors | None:
    """The vectors of a learned word in the embeddings folder; None where there is no such file. NodeError for one that cannot be read."""
    for suffix in SUFFIXES:
        try:
            path = ctx.folders.find("embeddings", name + suffix)
        except NodeError:  # the name leads out of the folder, or the context has no folders: then it is text
            return None
        if path is not None and path.is_file():
            try:
                return read_embedding(path)
            except (ValueError, OSError) as problem:
                raise NodeError(f"text: embedding {name!r}: {problem}") from problem
    return None
