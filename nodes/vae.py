"""Between pictures and latents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from diffusion.vae import decode, encode, encode_for_inpaint
from diffusion.values import VAE, Image, Latent, Mask
from graph_engine.node import Node
from nodes.params import number

if TYPE_CHECKING:
    from graph_engine.context import Context


class VAEDecode(Node, category="latent", title="VAE Decode", aliases=("latent to image",)):
    """Pictures from latents."""

    samples: Annotated[Latent, Field(description="What to decode.")]
    vae: Annotated[VAE, Field(description="The VAE that the model came with.")]

    def run(self, ctx: Context) -> Image:
        return decode(self.vae, self.samples, ctx.device)


class VAEEncode(Node, category="latent", title="VAE Encode", aliases=("image to latent",)):
    """Latents from pictures, which are trimmed around their centre to multiples of 8 pixels."""

    pixels: Image
    vae: VAE

    def run(self, ctx: Context) -> Latent:
        return encode(self.vae, self.pixels, ctx.device)


class VAEEncodeForInpaint(Node, category="latent/inpaint", title="VAE Encode (for Inpainting)", aliases=("inpaint",)):
    """Latents from pictures greyed out under a mask, with the mask, somewhat grown, as noise mask; wants a denoise near 1."""

    pixels: Image
    vae: VAE
    mask: Annotated[Mask, Field(description="Where the picture is to be made anew; resized to it and rounded.")]
    grow_mask_by: Annotated[int, number(0, 64, 1, "Width of the square that grows the noise mask, in pixels.")] = 6

    def run(self, ctx: Context) -> Latent:
        return encode_for_inpaint(self.vae, self.pixels, self.mask, self.grow_mask_by, ctx.device)
