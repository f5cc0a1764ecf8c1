"""Enlarge pictures with a network trained for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from diffusion.upscale import UpscaleModel, open_upscaler, upscaled
from diffusion.values import Image
from graph_engine.errors import NodeError
from graph_engine.node import File, Node

if TYPE_CHECKING:
    from graph_engine.context import Context


class UpscaleModelLoader(Node, category="loaders", title="Load Upscale Model", aliases=("esrgan", "super resolution", "open")):
    """A network that enlarges pictures; reading it needs the package spandrel."""

    model_name: Annotated[str, File("upscale_models"), Field(description="A file of weights, such as 4x-UltraSharp.")]

    def run(self, ctx: Context) -> UpscaleModel:
        try:
            return open_upscaler(ctx.path("upscale_models", self.model_name), ctx.device)
        except (ImportError, ValueError, OSError) as problem:
            raise NodeError(f"model_name: {problem}") from problem


class ImageUpscaleWithModel(Node, category="image/upscaling", title="Upscale Image (using Model)", aliases=("esrgan", "super resolution")):
    """Pictures enlarged by a network, in tiles; how many times is up to the network."""

    upscale_model: UpscaleModel
    image: Image

    def run(self, ctx: Context) -> Image:
        return Image(upscaled(self.upscale_model, self.image.pixels, ctx.device, ctx.check))
