"""SDEdit (Meng et al. 2022): a picture, perhaps with strokes over it, is noised to a level and denoised again; and the way back in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from diffusion.batch import repeat_to
from diffusion.composite import paste_back
from diffusion.guidance import CFG
from diffusion.mask import cells, grow
from diffusion.noise import prepare_noise
from diffusion.preview import jpeg
from diffusion.sample import MaskRule
from diffusion.sdedit import levels_below, sdedit
from diffusion.values import Conditioning, Guider, Image, Latent, Mask, Model, Sampler, Sigmas
from graph_engine.errors import NodeError
from graph_engine.node import Node
from nodes.params import CELL, Eta, Scale, SchedulerName, Seed, Steps, number

if TYPE_CHECKING:
    from graph_engine.context import Context

ANCESTRAL = "euler_ancestral"  # in VE form, with η = 1, Ho et al.'s reverse chain of fixed small variance


def painted(image: Tensor, strokes: Tensor, alpha: Tensor, texture: float, seed: int) -> Tensor:
    """Strokes [b, h, w, 3] with straight alpha [b, h, w] over an image; `texture` is the standard deviation of noise in their colour."""
    color = strokes
    if texture > 0:
        color = strokes + texture * prepare_noise(strokes.shape, seed).to(strokes)
    alpha = alpha[..., None]
    return (color * alpha + image * (1 - alpha)).clamp(0, 1)


def resized(mask: Mask, like: Tensor) -> Tensor:
    """A mask as [b, h, w] of pictures [b, h, w, c]: resized bilinearly, rows repeated in turn."""
    values = mask.values.to(like)
    if values.shape[1:] != like.shape[1:3]:
        values = F.interpolate(values[:, None], like.shape[1:3], mode="bilinear")[:, 0]
    return repeat_to(values.clamp(0, 1), len(like))


# nodes


class StrokeGuide(Node, category="editing/sdedit", title="Stroke Guide", aliases=("sdedit", "paint over", "scribble")):
    """Lay strokes over a picture, to be made real by SDEdit: gives the painted picture and where it was painted."""

    image: Annotated[Image, Field(description="What is painted on; an empty picture for a painting from nothing.")]
    strokes: Annotated[Image, Field(description="Of the same size, with alpha (Draw Strokes, Join Image with Alpha), or with the mask.")]
    strokes_mask: Annotated[
        Mask | None, Field(description="Where the strokes are transparent, as Load Image gives it; only for strokes without alpha.")
    ] = None
    grow: Annotated[int, number(0, 1024, 1, "Pixels around the strokes that the mask lets change, too.")] = 0
    texture: Annotated[float, number(0, 1, 0.01, "Noise in the strokes' colours: evenly coloured strokes give even surfaces.")] = 0.0
    seed: Seed = 0

    class Out(NamedTuple):
        image: Image
        mask: Annotated[Mask, Field(description="1 where strokes lie.")]

    def run(self, ctx: Context) -> Out:
        image, strokes = self.image.pixels[..., :3], self.strokes.pixels.to(self.image.pixels)
        if strokes.shape[1:3] != image.shape[1:3]:
            wanted, given = (f"{x.shape[2]} × {x.shape[1]}" for x in (image, strokes))
            raise NodeError(f"strokes: {wanted} pixels are wanted as image has, {given} given; use ImageScale")
        if strokes.shape[-1] == 4:
            alpha = strokes[..., 3]
        elif self.strokes_mask is not None:
            alpha = 1 - resized(self.strokes_mask, strokes)
        else:
            raise NodeError("strokes: a picture with alpha is wanted, or strokes_mask beside it; strokes of 3 channels and no mask given")
        n = max(len(image), len(strokes), len(alpha))
        image, color, alpha = (repeat_to(x, n) for x in (image, strokes[..., :3], alpha))
        mask = grow((alpha > 0).to(alpha), self.grow, tapered_corners=False) if self.grow else alpha
        return self.Out(Image(painted(image, color, alpha, self.texture, self.seed)), Mask(mask))


class SDEdit(Node, category="editing/sdedit", title="SDEdit", aliases=("strokes", "image to image", "img2img", "stochastic edit")):
    """Noise a guide to a level and denoise it stochastically, keeping what a mask leaves out (Meng et al. 2022, alg. 2 and 3).

    A mask of 1 everywhere changes nothing about the unmasked run; where it is 0 the latent comes back bit for bit; level 0 gives the guide.
    """

    model: Annotated[Model, Field(description="The denoiser.")]
    positive: Annotated[Conditioning, Field(description="What the picture should show.")]
    negative: Annotated[Conditioning, Field(description="What it should not show.")]
    guide: Annotated[Latent, Field(description="The painting, composite or picture, encoded. Its noise mask counts where none is given.")]
    level: Annotated[
        float, number(0, 1, 0.01, "Share of the training timesteps to noise to: lower is nearer to the guide, higher more lifelike.")
    ] = 0.5
    steps: Annotated[Steps, Field(description="Steps from the level down; all of them are walked.")] = 20
    scheduler: SchedulerName = "normal"
    eta: Annotated[Eta, Field(description="Fresh noise in each step: 1 is the paper's, 0 the ODE, which leaves more of the strokes.")] = 1.0
    cfg: Scale = 4.0
    seed: Seed = 0
    repeats: Annotated[int, number(1, 64, 1, "How often to go up and down; more is more lifelike and further from the guide.")] = 1
    background_noise: Annotated[
        Literal["fixed", "fresh"],
        Field(description="Of the kept part: one noise for all levels, which stays in place, or a new one each, for better seams."),
    ] = "fixed"
    mask: Annotated[Mask | None, Field(description="Where to edit: every latent cell that it touches. None: everywhere.")] = None
    source: Annotated[Latent | None, Field(description="What to keep where the mask is not; none: the guide.")] = None
    sampler: Annotated[Sampler | None, Field(description="Another sampler than ancestral steps of eta.")] = None
    sigmas: Annotated[Sigmas | None, Field(description="Other noise levels than those of level, steps and scheduler.")] = None

    class Out(NamedTuple):
        latent: Latent
        noised: Annotated[Latent, Field(description="The guide at the first level.")]

    def run(self, ctx: Context) -> Out:
        sampler = self.sampler or Sampler.of(ANCESTRAL, eta=self.eta)
        sigmas = self.sigmas or Sigmas(
            levels_below(self.model.process.table(), self.level, self.scheduler, self.steps, sampler.name),
        )
        return self.Out(
            *sdedit(
                Guider(self.model, CFG(self.positive, self.negative, self.cfg)),
                self.guide,
                sampler,
                sigmas,
                self.seed,
                ctx.device,
                mask=self._mask(),
                source=self.source,
                fresh=self.background_noise == "fresh",
                repeats=self.repeats,
                on_step=lambda i, n, x0: ctx.step(i, n, lambda: jpeg(x0, self.model.weights)),
            )
        )

    def _mask(self) -> Tensor | None:
        if self.mask is None and self.guide.noise_mask is None:
            if self.source is not None:
                raise NodeError("source: a mask that says where it stays is wanted beside it, none given")
            return None
        values = self.mask.values if self.mask is not None else self.guide.noise_mask[:, 0]  # type: ignore[index]  # one of both is there
        share = cells(values.float(), *self.guide.x.shape[2:])[:, None]
        soft = any(isinstance(patch, MaskRule) for patch in self.model.patches)  # then how grey it is counts
        return repeat_to(share if soft else (share > 0).float(), len(self.guide.x))


class PasteBack(Node, category="editing/sdedit", title="Paste Back", aliases=("composite", "restore background", "unmasked area")):
    """Put the source's own pixels back where the mask is not, bit for bit; the VAE has moved them a little.

    A picture that the VAE cut to whole latent cells is laid in the middle again.
    """

    image: Annotated[Image, Field(description="The edited picture.")]
    source: Annotated[Image, Field(description="The picture before the edit.")]
    mask: Annotated[Mask, Field(description="1 takes the edited picture. Resized to the source.")]
    feather: Annotated[int, number(0, 1024, 1, "Pixels inside of the mask over which the edit fades in.")] = 0

    def run(self, ctx: Context) -> Image:
        source = self.source.pixels
        image = self.image.pixels[..., :3].to(source)
        cut = tuple(a - b for a, b in zip(source.shape[1:3], image.shape[1:3], strict=True))
        if not all(0 <= d < CELL for d in cut):
            wanted, given = (f"{x.shape[2]} × {x.shape[1]}" for x in (source, image))
            raise NodeError(f"image: {wanted} pixels are wanted as source has, or less than {CELL} fewer a side, {given} given")
        n = max(len(image), len(source))
        image, source = repeat_to(image, n), repeat_to(source, n)
        whole = source[..., :3].clone()
        top, left = cut[0] // 2, cut[1] // 2
        whole[:, top : top + image.shape[1], left : left + image.shape[2]] = image
        mask = resized(self.mask, source)
        if any(cut):
            inside = torch.zeros_like(mask)
            inside[:, top : top + image.shape[1], left : left + image.shape[2]] = 1
            mask = mask * inside
        pasted = paste_back(whole, source[..., :3], mask, self.feather)
        return Image(torch.cat([pasted, source[..., 3:]], -1))
