"""Nodes of saved graphs whose models are not supported: they say so, by name, instead of being unknown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, NamedTuple

from pydantic import Field

from diffusion.values import VAE, Clip, Conditioning, Image, Latent, Model
from diffusion.vision import ClipVision, ClipVisionOutput
from graph_engine.errors import NodeError
from graph_engine.node import File, Node
from nodes.params import MAX_SIDE, CheckpointFile, LatentOffset, Text, number

if TYPE_CHECKING:
    from graph_engine.context import Context


BoxSide = Annotated[int, number(8, MAX_SIDE, 8, "In pixels of the picture.")]


@dataclass(frozen=True, slots=True)
class Gligen:
    """Layers for prompts in boxes; none can be loaded."""

    socket: ClassVar[str] = "GLIGEN"


class unCLIPCheckpointLoader(Node, category="loaders", title="Load unCLIP Checkpoint", aliases=("model",)):  # the name in saved graphs
    """Not supported: models that vary a picture by its CLIP embedding (Ramesh et al. 2022). It says so when it runs."""

    ckpt_name: CheckpointFile

    class Out(NamedTuple):
        model: Model
        clip: Clip
        vae: VAE
        clip_vision: ClipVision

    def run(self, ctx: Context) -> Out:
        raise NodeError(f"ckpt_name: {self.ckpt_name!r} is asked for as an unCLIP checkpoint; these are not supported, use Load Checkpoint")


class GLIGENLoader(Node, category="loaders", title="Load GLIGEN", aliases=("grounding", "boxes")):
    """Not supported: layers for prompts in boxes (Li et al. 2023). It says so when it runs."""

    gligen_name: Annotated[str, File("gligen"), Field(description="A GLIGEN file.")]

    def run(self, ctx: Context) -> Gligen:
        raise NodeError(f"gligen_name: {self.gligen_name!r} cannot be used, GLIGEN is not supported; use Conditioning (Set Area) instead")


class GLIGENTextBoxApply(Node, category="conditioning/gligen", title="Apply GLIGEN Text Box", aliases=("grounding", "boxes")):
    """Not supported: a prompt in a box by GLIGEN (Li et al. 2023). Its loader says so when it runs."""

    conditioning_to: Conditioning
    clip: Clip
    gligen_textbox_model: Gligen
    text: Annotated[Text, Field(description="What to paint in the box.")]
    width: BoxSide = 64
    height: BoxSide = 64
    x: LatentOffset = 0
    y: LatentOffset = 0

    def run(self, ctx: Context) -> Conditioning:
        raise NodeError("gligen_textbox_model: GLIGEN is not supported; use Conditioning (Set Area) instead")


class unCLIPConditioning(Node, category="conditioning", title="unCLIP Conditioning", aliases=("image prompt",)):  # the name in saved graphs
    """Not supported: a picture's CLIP embedding for an unCLIP model (Ramesh et al. 2022). It says so when it runs."""

    conditioning: Conditioning
    clip_vision_output: ClipVisionOutput
    strength: Annotated[float, number(-10, 10, 0.01, "How strongly the picture would count.")] = 1.0
    noise_augmentation: Annotated[float, number(0, 1, 0.01, "How much noise would be put on the embedding.")] = 0.0

    def run(self, ctx: Context) -> Conditioning:
        raise NodeError("clip_vision_output: unCLIP models are not supported; use an IP-Adapter to prompt with a picture")


class SD_4XUpscale_Conditioning(Node, category="conditioning/upscale_diffusion", title="SD 4x Upscale Conditioning"):
    """Not supported: what Stable Diffusion's fourfold upscaling model is shown (Rombach et al. 2022). It says so when it runs."""

    images: Image
    positive: Conditioning
    negative: Conditioning
    scale_ratio: Annotated[float, number(0, 10, 0.01, "How many times larger the picture would become.")] = 4.0
    noise_augmentation: Annotated[float, number(0, 1, 0.001, "How much noise would be put on the picture that is shown.")] = 0.0

    class Out(NamedTuple):
        positive: Conditioning
        negative: Conditioning
        latent: Latent

    def run(self, ctx: Context) -> Out:
        raise NodeError("images: the fourfold diffusion upscaler is not supported; use Upscale Image (using Model)")
