"""Between large pictures and latents, tile by tile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from diffusion.tiles import LEAST_OVERLAPS
from diffusion.vae import decode_tiled, encode_tiled
from diffusion.values import VAE, Image, Latent
from graph_engine.node import Node
from nodes.params import number

if TYPE_CHECKING:
    from graph_engine.context import Context

Overlap = Annotated[int, number(0, 4096, 32, "How far tiles overlap, in pixels; cut to a quarter of the tile where it is too far.")]
FramesAtOnce = Annotated[int, number(8, 4096, 4, "Kept for saved graphs: only VAEs of video look at it.")]
FramesOverlap = Annotated[int, number(4, 4096, 4, "Kept for saved graphs: only VAEs of video look at it.")]


def within(tile: int, overlap: int) -> int:
    """The overlap, cut to a quarter of the tile."""
    return min(overlap, tile // LEAST_OVERLAPS)


def within_half(tile: int, overlap: int) -> int:
    """The overlap as it is, or a quarter of the tile where half of one, the shorter side of flat and tall tiles, would be all overlap."""
    return overlap if overlap < tile // 2 else tile // LEAST_OVERLAPS


class VAEDecodeTiled(Node, category="latent", title="VAE Decode (Tiled)", aliases=("latent to image", "low memory")):
    """Pictures from latents, tile by tile: large pictures in little memory, nearly those of VAE Decode."""

    samples: Latent
    vae: VAE
    tile_size: Annotated[int, number(64, 4096, 32, "Side of a tile in pixels.")] = 512
    overlap: Overlap = 64
    temporal_size: FramesAtOnce = 64
    temporal_overlap: FramesOverlap = 8

    def run(self, ctx: Context) -> Image:
        return decode_tiled(self.vae, self.samples, self.tile_size, within(self.tile_size, self.overlap), ctx.device)


class VAEEncodeTiled(Node, category="latent", title="VAE Encode (Tiled)", aliases=("image to latent", "low memory")):
    """Latents from pictures, tile by tile: large pictures in little memory, nearly those of VAE Encode."""

    pixels: Image
    vae: VAE
    tile_size: Annotated[int, number(64, 4096, 64, "Side of a tile in pixels.")] = 512
    overlap: Overlap = 64
    temporal_size: FramesAtOnce = 64
    temporal_overlap: FramesOverlap = 8

    def run(self, ctx: Context) -> Latent:
        return encode_tiled(self.vae, self.pixels, self.tile_size, within_half(self.tile_size, self.overlap), ctx.device)
