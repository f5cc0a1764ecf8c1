"""T2I-Adapter's style models (Mou et al. 2023): a picture says what to paint like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from diffusion.style_model import StrengthType, StyleModel, open_style_model, style_tokens, with_style
from diffusion.values import Conditioning
from diffusion.vision import ClipVisionOutput
from graph_engine.errors import NodeError
from graph_engine.node import File, Node
from nodes.params import number

if TYPE_CHECKING:
    from graph_engine.context import Context


class StyleModelLoader(Node, category="loaders", title="Load Style Model", aliases=("t2i adapter", "style")):
    """Open a style model of T2I-Adapter for Stable Diffusion 1."""

    style_model_name: Annotated[str, File("style_models"), Field(description="A T2I-Adapter style model, such as coadapter-style-sd15v1.")]

    def run(self, ctx: Context) -> StyleModel:
        try:
            return open_style_model(ctx.path("style_models", self.style_model_name))
        except (ValueError, OSError) as problem:
            raise NodeError(f"style_model_name: {problem}") from problem


class StyleModelApply(Node, category="conditioning/style_model", title="Apply Style Model", aliases=("t2i adapter", "style")):
    """Let a picture's style be read after the prompt, as tokens (Mou et al. 2023); several in a row follow one another."""

    conditioning: Conditioning
    style_model: StyleModel
    clip_vision_output: ClipVisionOutput
    strength: Annotated[float, number(0, 10, 0.001, "How strongly the style speaks.")] = 1.0
    strength_type: Annotated[
        StrengthType,
        Field(
            description="multiply: the style's tokens times the strength; attn_bias: so many times the attention for them, 0 hides them."
        ),
    ] = "multiply"

    def run(self, ctx: Context) -> Conditioning:
        try:
            tokens = style_tokens(self.style_model, self.clip_vision_output, ctx.device)
            return with_style(self.conditioning, tokens, self.strength, self.strength_type)
        except ValueError as problem:
            raise NodeError(str(problem)) from problem
