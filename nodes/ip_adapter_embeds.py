"""IP-Adapter by its parts: what a picture says, weighted and combined, before a model is told (Ye et al. 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import torch
from pydantic import Field

from diffusion.ip_adapter.embed import COMBINATIONS, EXTREMES, combined, nothing, read, tokens
from diffusion.ip_adapter.patch import SCALINGS, ImagePrompt
from diffusion.ip_adapter.value import ImageEmbeds, IPAdapter
from diffusion.ip_adapter.weighting import WEIGHT_TYPES
from diffusion.values import Image, Mask, Model
from diffusion.vision import ClipVision, ClipVisionOutput, look
from graph_engine.errors import NodeError
from graph_engine.node import Node
from nodes.params import number

if TYPE_CHECKING:
    from graph_engine.context import Context

if TYPE_CHECKING:  # a checker cannot follow choices that are computed
    WeightType = str
    Method = str
    Scaling = str
else:
    WeightType = Annotated[Literal[WEIGHT_TYPES], Field(description="In which layers the pictures speak; linear: in all alike.")]
    Method = Annotated[
        Literal[(*COMBINATIONS, *EXTREMES)],
        Field(description="concat: the model sees all; subtract: the first without the others; or their sum, mean, largest or least."),
    ]
    Scaling = Annotated[Literal[SCALINGS], Field(description="What the weight multiplies.")]
Weight = Annotated[float, number(-1, 3, 0.05, "How strongly the pictures speak; 0 is not at all, below 0 against them.")]
StartAt = Annotated[float, number(0, 1, 0.001, "From this part of the noise range on; 0 is pure noise.")]
EndAt = Annotated[float, number(0, 1, 0.001, "Up to this part of the noise range; 1 is the finished picture.")]
Adapter = Annotated[IPAdapter, Field(description="The adapter that is to read it.")]
Encoder = Annotated[ClipVision | None, Field(description="The picture encoder that the adapter was trained with.")]
More = Annotated[ImageEmbeds | None, Field(description="One more.")]


class IPAdapterEncoder(Node, category="conditioning/ipadapter", title="IP-Adapter Encode", aliases=("image prompt", "embeds")):
    """What an adapter reads of pictures, with a weight, and what it reads where there is none."""

    ipadapter: Adapter
    image: Image
    weight: Annotated[float, number(-1, 3, 0.01, "Multiplies what is read, for pictures that count differently.")] = 1.0
    mask: Annotated[Mask | None, Field(description="Where to look: 1; elsewhere the pictures are black.")] = None
    clip_vision: Encoder = None

    class Out(NamedTuple):
        pos_embed: ImageEmbeds
        neg_embed: ImageEmbeds

    def run(self, ctx: Context) -> Out:
        if self.clip_vision is None:
            raise NodeError("clip_vision: an encoder is wanted, none given; connect Load CLIP Vision")
        pixels = self.image.pixels
        if self.mask is not None:
            pixels = pixels * _fitted(self.mask.values, pixels)
        try:
            values = read(self.ipadapter, look(self.clip_vision, pixels, ctx.device, heard=ctx.check))
            return self.Out(ImageEmbeds(values * self.weight), ImageEmbeds(nothing(self.ipadapter, self.clip_vision, ctx.device)))
        except ValueError as problem:
            raise NodeError(str(problem)) from problem


class IPAdapterCombineEmbeds(Node, category="conditioning/ipadapter", title="IP-Adapter Combine Embeds", aliases=("image prompt", "mix")):
    """What was read of several pictures as one."""

    embed1: Annotated[ImageEmbeds, Field(description="What to begin with.")]
    method: Method = "concat"
    embed2: More = None
    embed3: More = None
    embed4: More = None
    embed5: More = None

    def run(self, ctx: Context) -> ImageEmbeds:
        given = [each.values for each in (self.embed1, self.embed2, self.embed3, self.embed4, self.embed5) if each is not None]
        if any(each.shape[1:] != given[0].shape[1:] for each in given):
            shapes = ", ".join(str(list(each.shape[1:])) for each in given)
            raise NodeError(f"embed2 …: what one adapter reads is wanted, embeds of several kinds given ({shapes})")
        return ImageEmbeds(combined(torch.cat(given), self.method))


class IPAdapterEmbeds(Node, category="conditioning/ipadapter", title="Apply IP-Adapter (Embeds)", aliases=("image prompt", "embeds")):
    """Let what was read of pictures be a prompt beside the text (Ye et al. 2023); several in a row add up."""

    model: Model
    ipadapter: Adapter
    pos_embed: Annotated[ImageEmbeds | ClipVisionOutput, Field(description="What the positive is told; also from CLIP Vision Encode.")]
    weight: Weight = 1.0
    weight_type: WeightType = "linear"
    start_at: StartAt = 0.0
    end_at: EndAt = 1.0
    embeds_scaling: Scaling = "V only"
    neg_embed: Annotated[
        ImageEmbeds | ClipVisionOutput | None, Field(description="What the negative is told; without it, that there is no picture.")
    ] = None
    attn_mask: Annotated[Mask | None, Field(description="Where the pictures speak: 1 fully, 0 not at all; by default everywhere.")] = None
    clip_vision: Encoder = None

    def run(self, ctx: Context) -> Model:
        if self.weight == 0:
            return self.model
        try:
            positive = read(self.ipadapter, self.pos_embed)
            if self.neg_embed is None:
                negative = nothing(self.ipadapter, self.clip_vision, ctx.device)
            else:
                negative = read(self.ipadapter, self.neg_embed)
        except ValueError as problem:
            raise NodeError(str(problem)) from problem
        told = [tokens(self.ipadapter, each, ctx.device) for each in (positive, negative)]
        mask = None if self.attn_mask is None else self.attn_mask.values
        return self.model.patched(
            ImagePrompt(
                self.ipadapter, told[0], told[1], self.weight, self.weight_type, self.start_at, self.end_at, self.embeds_scaling, mask
            )
        )


def _fitted(mask: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    size = (pixels.shape[1], pixels.shape[2])
    fitted = torch.nn.functional.interpolate(mask[:, None].float(), size, mode="bilinear")
    return fitted.movedim(1, -1)
