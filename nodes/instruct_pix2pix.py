"""InstructPix2Pix (Brooks et al. 2023): a network that sees the picture, guided by the picture and by the instruction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple

import torch
from pydantic import Field

from diffusion.family import family
from diffusion.guidance import DualCFG
from diffusion.vae import encode
from diffusion.values import VAE, Conditioning, Guider, Image, Latent, Model
from diffusion.widen import further_channels, seeing
from graph_engine.errors import NodeError
from graph_engine.node import Node
from nodes.params import number

if TYPE_CHECKING:
    from graph_engine.context import Context

SeeingModel = Annotated[Model, Field(description="An InstructPix2Pix model, with 8 input channels.")]


def two_guidances(
    instruction: Conditioning, nothing: Conditioning, picture: torch.Tensor, text_scale: float, image_scale: float
) -> DualCFG:
    """ε(∅,∅) + s_I·(ε(c_I,∅) − ε(∅,∅)) + s_T·(ε(c_I,c_T) − ε(c_I,∅)) (eq. 3); the picture [b, c, h, w] is the mode, unscaled.

    No picture is a latent of zeros, which is what an entry without one is shown; no words are those of the empty prompt.
    """
    both, picture_alone = instruction.map(concat_latent=picture), nothing.map(concat_latent=picture)
    return DualCFG(both, picture_alone, nothing.map(concat_latent=None), text_scale, image_scale)


# nodes


class InstructPix2PixGuider(Node, category="editing/instruct_pix2pix", title="InstructPix2Pix Guider", aliases=("dual cfg", "instruction")):
    """Edit a picture as words ask for, with one scale for the words and one for the picture (Brooks et al. 2023, sec. 3.2.1).

    Three evaluations a step. Does it change too little, raise the text scale or lower the picture's; too much, the other way.
    """

    model: SeeingModel
    instruction: Annotated[Conditioning, Field(description="What is to be done: 'make the star green'.")]
    nothing: Annotated[Conditioning, Field(description="An empty prompt.")]
    vae: Annotated[VAE, Field(description="The model's VAE.")]
    pixels: Annotated[Image, Field(description="The picture to edit.")]
    text_scale: Annotated[float, number(0, 100, 0.1, "s_T: how much to follow the instruction; 1 is no guidance.", round=0.01)] = 7.5
    image_scale: Annotated[float, number(0, 100, 0.1, "s_I: how much to keep of the picture; 1 is no guidance.", round=0.01)] = 1.5

    class Out(NamedTuple):
        guider: Guider
        latent: Annotated[Latent, Field(description="An empty one of the picture's size, to start from.")]

    def run(self, ctx: Context) -> Out:
        wanted, found = family(self.model.weights.family).latent.channels, further_channels(self.model, ctx.device)
        if found != wanted:
            raise NodeError(f"model: one with {wanted} input channels beside the latent's is wanted, to see the picture; {found} given")
        shown = encode(self.vae, self.pixels, ctx.device)
        guidance = two_guidances(self.instruction, self.nothing, shown.x, self.text_scale, self.image_scale)
        return self.Out(Guider(self.model, guidance), Latent(torch.zeros_like(shown.x), format=shown.format))


class ExpandInputChannels(Node, category="editing/instruct_pix2pix", title="Expand Input Channels", aliases=("conv_in", "8 channels")):
    """Let a model see a picture beside the noise: further input channels, at first of zero weight (Brooks et al. 2023, sec. 3.2)."""

    model: Annotated[Model, Field(description="A text-to-image model; it stays as it is. One that sees a picture comes back as it is.")]

    def run(self, ctx: Context) -> Model:
        try:
            return seeing(self.model, ctx.device)
        except ValueError as problem:
            raise NodeError(str(problem)) from problem
