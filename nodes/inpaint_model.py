"""What networks with further input channels are shown: inpainting models and InstructPix2Pix."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, NamedTuple

import torch
from pydantic import Field

from diffusion.vae import encode, encode_beside
from diffusion.values import VAE, Conditioning, Image, Latent, Mask
from graph_engine.node import Node

if TYPE_CHECKING:
    from graph_engine.context import Context

Positive = Annotated[Conditioning, Field(description="What the picture should show.")]
Negative = Annotated[Conditioning, Field(description="What it should not show.")]
Pixels = Annotated[Image, Field(description="The picture to edit.")]
TheVae = Annotated[VAE, Field(description="The model's VAE.")]


class InpaintModelConditioning(Node, category="conditioning/inpaint", title="Inpaint Model Conditioning"):
    """Show an inpainting model the picture with the masked part erased, and where that is (Rombach et al. 2022)."""

    positive: Positive
    negative: Negative
    vae: TheVae
    pixels: Pixels
    mask: Annotated[Mask, Field(description="1 where the picture is to be made anew.")]
    noise_mask: Annotated[
        bool, Field(description="Also keep the rest of the latent as it is; without it all of it may change a little.")
    ] = True

    class Out(NamedTuple):
        positive: Conditioning
        negative: Conditioning
        latent: Latent

    def run(self, ctx: Context) -> Out:
        whole, erased, mask = encode_beside(self.vae, self.pixels, self.mask, ctx.device)
        shown = {"concat_latent": erased, "concat_mask": mask}
        latent = replace(whole, noise_mask=mask) if self.noise_mask else whole
        return self.Out(self.positive.map(**shown), self.negative.map(**shown), latent)


class InstructPixToPixConditioning(Node, category="conditioning/instructpix2pix", title="InstructPix2Pix Conditioning"):
    """Show an InstructPix2Pix model the picture to edit (Brooks et al. 2023); sampling starts from an empty latent of its size."""

    positive: Positive
    negative: Negative
    vae: TheVae
    pixels: Pixels

    class Out(NamedTuple):
        positive: Conditioning
        negative: Conditioning
        latent: Latent

    def run(self, ctx: Context) -> Out:
        shown = encode(self.vae, self.pixels, ctx.device)
        latent = Latent(torch.zeros_like(shown.x), format=shown.format)
        return self.Out(self.positive.map(concat_latent=shown.x), self.negative.map(concat_latent=shown.x), latent)
