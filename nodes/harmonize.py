"""Harmonizing a composite as SDEdit does: the seam's area, its colours matched, a masked edit at a low level, and the rest pasted back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from diffusion.batch import repeat_to
from diffusion.composite import paste_back
from diffusion.guidance import CFG
from diffusion.mask import cells
from diffusion.preview import jpeg
from diffusion.sdedit import levels_below, sdedit
from diffusion.vae import decode, encode
from diffusion.values import VAE, Conditioning, Guider, Image, Latent, Mask, Model, Sampler, Sigmas
from graph_engine.errors import NodeError
from graph_engine.node import Node
from nodes.params import CELL, Eta, Scale, SchedulerName, Seed, Steps, Unit, number

if TYPE_CHECKING:
    from graph_engine.context import Context

Inner = Annotated[int, number(0, 1024, 1, "How far the band reaches into the pasted part, in pixels.")]
Outer = Annotated[int, number(0, 1024, 1, "How far the band, or the whole, reaches beyond the pasted part, in pixels.")]
FLAT = 1e-3  # a standard deviation below this is an even colour, which has no contrast to be scaled


def dilated(mask: Tensor, radius: int) -> Tensor:
    """1 within a square of ±radius pixels around the mask [b, h, w] of 0 and 1."""
    return F.max_pool2d(mask[:, None], 2 * radius + 1, stride=1, padding=radius)[:, 0] if radius else mask


def seam(mask: Tensor, inner: int, outer: int) -> tuple[Tensor, Tensor, Tensor]:
    """(band, object, interior) of a mask [b, h, w]: dilated by outer less eroded by inner; dilated by outer; eroded by inner.

    All of it that is not 0 counts as the pasted part; the picture's border is no seam.
    """
    hard = (mask > 0).to(mask)
    whole, interior = dilated(hard, outer), 1 - dilated(1 - hard, inner)
    return whole - interior, whole, interior


def moments(image: Tensor, area: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and standard deviation of each channel over an area [b, h, w], and whether there is one: all [b, 1, 1, c or 1]."""
    weight = area[..., None]
    total = weight.sum((1, 2), keepdim=True)
    share = weight / total.clamp(min=1e-6)
    mean = (image * share).sum((1, 2), keepdim=True)
    return mean, ((image - mean).square() * share).sum((1, 2), keepdim=True).sqrt(), total > 0


def matched(image: Tensor, area: Tensor, like: Tensor, strength: float) -> Tensor:
    """Colours of an area [b, h, w] moved to mean and standard deviation, channel by channel, of another one (Reinhard et al. 2001, sec. 3).

    In RGB rather than in lαβ; where the area is of one colour, only the mean. Where area or like are empty nothing happens.
    """
    (mean_a, std_a, any_a), (mean_b, std_b, any_b) = moments(image, area), moments(image, like)
    scaled = torch.where(std_a > FLAT, std_b / std_a.clamp(min=FLAT), torch.ones_like(std_a))
    moved = ((image - mean_a) * scaled + mean_b).clamp(0, 1)
    share = area[..., None] * strength * (any_a & any_b)
    return image + (moved - image) * share


# nodes


class SeamBand(Node, category="editing/compositing", title="Seam Band", aliases=("edge mask", "boundary", "dilate", "erode")):
    """Where a pasted part meets its surroundings, and the part as a whole: the two areas that compositing edits."""

    mask: Annotated[Mask, Field(description="What was pasted; all that is not 0 counts.")]
    inner: Inner = 8
    outer: Outer = 8

    class Out(NamedTuple):
        band: Annotated[Mask, Field(description="The seam alone: dilated less eroded.")]
        object: Annotated[Mask, Field(description="The pasted part and its surroundings: dilated.")]
        interior: Annotated[Mask, Field(description="What of the part the band leaves: eroded.")]

    def run(self, ctx: Context) -> Out:
        return self.Out(*(Mask(found) for found in seam(self.mask.values, self.inner, self.outer)))


class MaskToLatent(Node, category="editing/compositing", title="Mask to Latent Cells", aliases=("downscale mask", "latent mask")):
    """A mask at a latent's size: 1 for every cell that it touches, so that thin parts are never lost."""

    mask: Mask
    latent: Annotated[Latent, Field(description="Whose size counts.")]

    def run(self, ctx: Context) -> Mask:
        return Mask((cells(self.mask.values.float(), *self.latent.x.shape[2:]) > 0).float())


class MatchColors(Node, category="editing/compositing", title="Match Colors", aliases=("color transfer", "harmonize", "reinhard")):
    """Move one area's colours to the mean and standard deviation of another's (Reinhard et al. 2001)."""

    image: Image
    area: Annotated[Mask, Field(description="Whose colours move; resized to the picture.")]
    like: Annotated[Mask, Field(description="Whose colours they are to resemble; resized to the picture.")]
    reference: Annotated[Image | None, Field(description="The picture that `like` is of; none: the same one.")] = None
    strength: Unit = 1.0

    def run(self, ctx: Context) -> Image:
        pixels = self.image.pixels[..., :3]
        area, like = _fit(self.area, pixels), _fit(self.like, pixels)
        if self.reference is None:
            return Image(matched(pixels, area, like, self.strength))
        other = self.reference.pixels[..., :3].to(pixels)
        if other.shape != pixels.shape:
            raise NodeError(f"reference: shape {tuple(pixels.shape)} is wanted as image has, {tuple(other.shape)} given")
        side = torch.cat([pixels, other], 2)
        nothing = torch.zeros_like(area)
        return Image(matched(side, torch.cat([area, nothing], 2), torch.cat([nothing, like], 2), self.strength)[:, :, : pixels.shape[2]])


class HarmonizeComposite(Node, category="editing/compositing", title="Harmonize Composite", aliases=("sdedit", "blend", "seam")):
    """Make a composite one picture: colours matched across the seam, masked SDEdit at a low level, and all else pasted back bit for bit.

    Meng et al. 2022, sec. 4.3. The seam alone heals edges; the object mode renders the part anew, which also lets shadows appear.
    """

    model: Annotated[Model, Field(description="The denoiser.")]
    vae: VAE
    image: Annotated[Image, Field(description="The composite.")]
    mask: Annotated[Mask, Field(description="What was pasted.")]
    positive: Annotated[Conditioning, Field(description="What the whole picture shows.")]
    negative: Annotated[Conditioning, Field(description="What it should not show.")]
    area: Annotated[Literal["seam", "object"], Field(description="Edit the seam alone, or the pasted part and its surroundings.")] = "seam"
    inner: Inner = 8
    outer: Outer = 8
    match_colors: Annotated[Unit, Field(description="How far to move the band's colours inside the part to those outside.")] = 0.0
    level: Annotated[float, number(0, 1, 0.01, "Share of the training timesteps to noise to; above 0.5 the part loses its identity.")] = 0.3
    steps: Steps = 20
    scheduler: SchedulerName = "normal"
    eta: Eta = 1.0
    cfg: Scale = 4.0
    seed: Seed = 0

    class Out(NamedTuple):
        image: Image
        mask: Annotated[Mask, Field(description="What was edited.")]

    def run(self, ctx: Context) -> Out:
        pixels = self.image.pixels[..., :3]
        if pixels.shape[1] % CELL or pixels.shape[2] % CELL:
            raise NodeError(f"image: sides that are multiples of {CELL} are wanted, {pixels.shape[2]} × {pixels.shape[1]} given")
        part = (_fit(self.mask, pixels) > 0).to(pixels)
        band, whole, _ = seam(part, self.inner, self.outer)
        edited = band if self.area == "seam" else whole
        even = matched(pixels, band * part, band * (1 - part), self.match_colors)
        guide = encode(self.vae, Image(even), ctx.device)
        mask = (cells(edited, *guide.x.shape[2:]) > 0).float()[:, None]
        sampler = Sampler.of("euler_ancestral", eta=self.eta)
        sigmas = Sigmas(levels_below(self.model.process.table(), self.level, self.scheduler, self.steps))
        guider = Guider(self.model, CFG(self.positive, self.negative, self.cfg))
        latent, _ = sdedit(
            guider, guide, sampler, sigmas, self.seed, ctx.device, mask=mask,
            on_step=lambda i, n, x0: ctx.step(i, n, lambda: jpeg(x0, self.model.weights)),
        )  # fmt: skip
        result = decode(self.vae, latent, ctx.device).pixels.to(pixels)
        return self.Out(Image(paste_back(result, pixels, edited)), Mask(edited))


def _fit(mask: Mask, like: Tensor) -> Tensor:
    values = mask.values.to(like)
    if values.shape[1:] != like.shape[1:3]:
        values = F.interpolate(values[:, None], like.shape[1:3], mode="bilinear")[:, 0]
    return repeat_to(values, len(like))
