"""IP-Adapter (Ye et al. 2023): a picture as a prompt; style and composition apart (Wang et al. 2024, "InstantStyle")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from diffusion.ip_adapter.embed import COMBINATIONS, prompts
from diffusion.ip_adapter.file import open_ip_adapter
from diffusion.ip_adapter.patch import SCALINGS, ImagePrompt
from diffusion.ip_adapter.value import IPAdapter
from diffusion.ip_adapter.weighting import WEIGHT_TYPES
from diffusion.values import Image, Mask, Model
from diffusion.vision import ClipVision
from graph_engine.errors import NodeError
from graph_engine.node import File, Node
from nodes.params import number

if TYPE_CHECKING:
    from graph_engine.context import Context

if TYPE_CHECKING:  # a checker cannot follow choices that are computed
    WeightType = str
    Combination = str
    Scaling = str
else:
    WeightType = Annotated[
        Literal[WEIGHT_TYPES],
        Field(
            description="Where the picture speaks. linear: in all layers alike; ease, weak, strong: more in some; style transfer: what it "
            "is painted like; composition: what is where; strong: in more layers; precise: the other of the two is pushed away."
        ),
    ]
    Combination = Annotated[
        Literal[COMBINATIONS],
        Field(description="Several pictures: concat: the model sees all; subtract: the first without the others; or their sum or mean."),
    ]
    Scaling = Annotated[
        Literal[SCALINGS],
        Field(description="What the weight multiplies: V only: the picture's attention as a whole; K: also how sharply it is looked at."),
    ]
Weight = Annotated[float, number(-1, 5, 0.05, "How strongly the picture speaks; 0 is not at all, below 0 against it.")]
StartAt = Annotated[float, number(0, 1, 0.001, "From this part of the noise range on; 0 is pure noise.")]
EndAt = Annotated[float, number(0, 1, 0.001, "Up to this part of the noise range; 1 is the finished picture.")]
Vision = Annotated[ClipVision | None, Field(description="The picture encoder that the adapter was trained with; it must be given.")]
Adapter = Annotated[IPAdapter, Field(description="An adapter made for the kind of model.")]
Against = Annotated[Image | None, Field(description="What the negative is told; without it, that there is no picture.")]
Where = Annotated[Mask | None, Field(description="Where the picture speaks: 1 fully, 0 not at all; by default everywhere.")]


@dataclass(frozen=True, slots=True)
class Settings:
    """What the nodes share."""

    adapter: IPAdapter
    vision: ClipVision | None
    against: Image | None = None
    combine: str = "concat"
    start: float = 0.0
    end: float = 1.0
    scaling: str = "V only"
    mask: Mask | None = None


def prompted(ctx: Context, model: Model, image: Image, weight: float, kind: str, settings: Settings) -> Model:
    """The model with pictures as one more prompt; as it is when their weight is 0."""
    if weight == 0:
        return model
    if settings.vision is None:
        raise NodeError("clip_vision: an encoder is wanted, none given; connect Load CLIP Vision")
    against = None if settings.against is None else settings.against.pixels
    try:
        tokens = prompts(settings.adapter, settings.vision, image.pixels, against, settings.combine, ctx.device, ctx.check)
    except ValueError as problem:
        raise NodeError(str(problem)) from problem
    mask = None if settings.mask is None else settings.mask.values
    return model.patched(ImagePrompt(settings.adapter, *tokens, weight, kind, settings.start, settings.end, settings.scaling, mask))


# nodes


class IPAdapterModelLoader(Node, category="loaders", title="Load IP-Adapter", aliases=("image prompt", "ipadapter")):
    """Open an IP-Adapter: plain, plus or full face; those that read faces with InsightFace (FaceID) are refused."""

    ipadapter_file: Annotated[str, File("ipadapter"), Field(description="An IP-Adapter made for the kind of model.")]

    def run(self, ctx: Context) -> IPAdapter:
        try:
            return open_ip_adapter(ctx.path("ipadapter", self.ipadapter_file))
        except (ValueError, OSError) as problem:
            raise NodeError(f"ipadapter_file: {problem}") from problem


class IPAdapterSimple(Node, category="conditioning/ipadapter", name="IPAdapter", title="Apply IP-Adapter", aliases=("image prompt",)):
    """Let a picture be a prompt beside the text (Ye et al. 2023); several in a row add up."""

    model: Model
    ipadapter: Adapter
    image: Image
    weight: Annotated[float, number(-1, 3, 0.05, "How strongly the picture speaks; 0 is not at all, below 0 against it.")] = 1.0
    start_at: StartAt = 0.0
    end_at: EndAt = 1.0
    weight_type: Annotated[
        Literal["standard", "prompt is more important", "style transfer"],
        Field(description="standard: in all layers alike; prompt …: less in early layers; style transfer: only what it is painted like."),
    ] = "standard"
    attn_mask: Where = None
    clip_vision: Vision = None

    def run(self, ctx: Context) -> Model:
        kind = {"standard": "linear", "prompt is more important": "ease out"}.get(self.weight_type, self.weight_type)
        settings = Settings(self.ipadapter, self.clip_vision, start=self.start_at, end=self.end_at, mask=self.attn_mask)
        return prompted(ctx, self.model, self.image, self.weight, kind, settings)


class IPAdapterAdvanced(Node, category="conditioning/ipadapter", title="Apply IP-Adapter (Advanced)", aliases=("image prompt", "style")):
    """Let pictures be a prompt beside the text (Ye et al. 2023), in chosen layers and places; several in a row add up."""

    model: Model
    ipadapter: Adapter
    image: Image
    weight: Weight = 1.0
    weight_type: WeightType = "linear"
    combine_embeds: Combination = "concat"
    start_at: StartAt = 0.0
    end_at: EndAt = 1.0
    embeds_scaling: Scaling = "V only"
    image_negative: Against = None
    attn_mask: Where = None
    clip_vision: Vision = None

    def run(self, ctx: Context) -> Model:
        settings = Settings(
            self.ipadapter,
            self.clip_vision,
            self.image_negative,
            self.combine_embeds,
            self.start_at,
            self.end_at,
            self.embeds_scaling,
            self.attn_mask,
        )
        return prompted(ctx, self.model, self.image, self.weight, self.weight_type, settings)


class IPAdapterStyleComposition(
    Node, category="conditioning/ipadapter", title="Apply IP-Adapter (Style and Composition)", aliases=("instantstyle", "image prompt")
):
    """Let one picture say what it is painted like and another what is where (Wang et al. 2024, "InstantStyle")."""

    model: Model
    ipadapter: Adapter
    image_style: Image
    image_composition: Image
    weight_style: Weight = 1.0
    weight_composition: Weight = 1.0
    expand_style: Annotated[bool, Field(description="Let the style speak in all layers but those of the composition.")] = False
    combine_embeds: Combination = "average"
    start_at: StartAt = 0.0
    end_at: EndAt = 1.0
    embeds_scaling: Scaling = "V only"
    image_negative: Against = None
    attn_mask: Where = None
    clip_vision: Vision = None

    def run(self, ctx: Context) -> Model:
        settings = Settings(
            self.ipadapter,
            self.clip_vision,
            self.image_negative,
            self.combine_embeds,
            self.start_at,
            self.end_at,
            self.embeds_scaling,
            self.attn_mask,
        )
        style = "strong style transfer" if self.expand_style else "style transfer"
        model = prompted(ctx, self.model, self.image_style, self.weight_style, style, settings)
        return prompted(ctx, model, self.image_composition, self.weight_composition, "composition", settings)
