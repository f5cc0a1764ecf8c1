"""SIGE (Li et al. 2022): a picture is edited in one place, and its new version costs what that place costs.

A run on the original keeps every block's activations. A run on the edited version, with the same noise and levels, computes only what the
edit reaches and takes the rest from there. Group normalisation uses the original's statistics, which is the paper's approximation.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import torch
from pydantic import Field

from diffusion.preview import jpeg
from diffusion.sample import sample
from diffusion.session import Net
from diffusion.sparse import decode as decoder
from diffusion.sparse.cache import ActivationCache
from diffusion.sparse.difference import cells_of, difference, dilated
from diffusion.sparse.edit import Plan, Sparse, mask_of
from diffusion.sparse.record import OverBudget, Record
from diffusion.values import VAE, Guider, Image, Latent, Mask, Model, Noise, Sampler, Sigmas
from graph_engine.errors import NodeError
from graph_engine.node import Node
from nodes.params import number

if TYPE_CHECKING:
    from graph_engine.context import Context


def planned(cache: ActivationCache, plan: Plan) -> str:
    """What a sparse run will compute, in words: the region of each size of feature map, and the part of all multiplications."""
    if plan.dense:
        return f"{float(plan.mask.float().mean()):.1%} edited: more than pays, everything is computed\n"
    done, whole = plan.work(cache.frames[0])
    sizes = {(layer.out.shape[2], layer.out.shape[3]): None for layer in cache.frames[0].layers}
    lines = [f"{float(plan.mask.float().mean()):.1%} edited; about {done / whole:.1%} of the multiplications are done anew"]
    for size in sizes:
        region = plan.region(size)
        what = (
            "all" if region.share > plan.dense_above else f"{len(region)} of {region.height} × {region.width}" if len(region) else "nothing"
        )
        lines.append(f"{size[0]:4} × {size[1]:<4} {what:16} {min(1, region.share):6.1%}")
    missing = len(cache.frames) - cache.full
    lines.append(f"cache: {cache.nbytes / 2**20:.1f} MiB, {cache.full} evaluations" + (f", {missing} more dense" if missing else ""))
    return "\n".join(lines) + "\n"


# nodes

Shape = Annotated[Literal["auto", "window", "tile"], Field(description="window: one rectangle; tile: many small ones; auto: what is less.")]
Budget = Annotated[int, number(1, 1 << 20, 64, "How much the activations may take, in MiB.")]
Kept = Annotated[Literal["as computed", "half"], Field(description="half: activations are kept in float16; the network's output never is.")]
DenseAbove = Annotated[float, number(0, 1, 0.01, "Where more than this share of a map would be computed, all of it is.")]
KEPT = {"as computed": None, "half": torch.float16}


class SparseDifference(Node, category="sparse", title="Difference Mask", aliases=("sige", "changed", "edit mask")):
    """Where two pictures or two latents differ: 1 = edited. A batch is compared row by row."""

    original: Image | Latent
    edited: Annotated[Image | Latent, Field(description="Of the original's kind and size.")]
    threshold: Annotated[float, number(0, 2, 0.001, "On a scale where black is -1 and white is 1; for latents, in their own units.")] = 0.02
    dilate: Annotated[int, number(0, 512, 1, "Pixels, or cells of latents, that the mask grows to each side.")] = 5

    class Out(NamedTuple):
        mask: Mask
        share: Annotated[float, Field(description="The part of the picture that is edited.")]

    def run(self, ctx: Context) -> Out:
        a, b = self.original, self.edited
        if isinstance(a, Image) and isinstance(b, Image):
            old, new, scale = a.pixels[..., :3].movedim(-1, 1), b.pixels[..., :3].movedim(-1, 1), 2
        elif isinstance(a, Latent) and isinstance(b, Latent):
            old, new, scale = a.x, b.x, 1
        else:
            raise NodeError(f"edited: {type(a).__name__} is wanted as the original is, {type(b).__name__} given")
        found = dilated(difference(old * scale, new.to(old) * scale, self.threshold), self.dilate).float()
        return self.Out(mask=Mask(found), share=found.mean().item())


class SparseCache(Node, category="sparse", title="Sparse Cache", aliases=("sige", "record", "activations")):
    """Sample as Sampler Custom (Advanced) does and keep the network's activations in every step, for sparse runs on edited versions."""

    noise: Noise
    guider: Guider
    sampler: Sampler
    sigmas: Annotated[Sigmas, Field(description="The noise levels to visit; the sparse run has to visit the same.")]
    latent_image: Annotated[Latent, Field(description="The original.")]
    budget: Budget = 4096
    when_full: Annotated[Literal["stop", "dense"], Field(description="dense: steps that do not fit are computed whole later.")] = "stop"
    keep: Kept = "as computed"

    class Out(NamedTuple):
        output: Annotated[Latent, Field(description="The latent at the last level.")]
        cache: ActivationCache
        mebibytes: Annotated[float, Field(description="What the cache holds, in MiB.")]

    def run(self, ctx: Context) -> Out:
        record = Record(self.budget << 20, self.when_full == "dense", KEPT[self.keep], reserve=ctx.device.reserve)
        model = replace(self.guider.model, patches=(record, *self.guider.model.patches))  # innermost: what the blocks themselves make
        kept: list[ActivationCache] = []

        def gather(net: Net) -> None:
            kept.append(net.state(record).cache())

        try:
            latent, _ = sample(
                replace(self.guider, model=model),
                self.noise,
                self.sampler,
                self.sigmas,
                self.latent_image,
                ctx.device,
                on_step=lambda i, n, x0: ctx.step(i, n, lambda: jpeg(x0, self.guider.model.weights)),
                inspect=gather,
            )
        except OverBudget as problem:
            raise NodeError(str(problem)) from problem
        if not kept:
            raise NodeError(f"sigmas: at least two levels are wanted, {len(self.sigmas)} given")
        return self.Out(output=latent, cache=kept[0], mebibytes=kept[0].nbytes / 2**20)


class SparseEdit(Node, category="sparse", title="Sparse Edit", aliases=("sige", "incremental", "faster")):
    """Let a model compute only what an edit reaches, and take the rest from a recorded run with the same noise, levels and guidance."""

    model: Annotated[Model, Field(description="The model of the recorded run.")]
    cache: ActivationCache
    mask: Annotated[Mask, Field(description="Where the picture was edited, of any size; all above 0 counts.")]
    mode: Shape = "auto"
    tile: Annotated[int, number(2, 64, 2, "Cells a side of a tile's output.")] = 4
    grow: Annotated[int, number(0, 16, 1, "Cells that the region grows to each side, at each size of feature map.")] = 1
    dense_above: DenseAbove = 0.6
    statistics: Annotated[
        Literal["cached", "recomputed"],
        Field(description="Of normalisations: the original's, or the edit's own, at half of what is saved in resnets."),
    ] = "cached"

    class Out(NamedTuple):
        model: Model
        share: Annotated[float, Field(description="About which part of the multiplications is done anew.")]
        report: Annotated[str, Field(description="What is computed at each size.")]

    def run(self, ctx: Context) -> Out:
        if self.cache.latent is not None:
            raise NodeError("cache: one of a sampled run is wanted (Sparse Cache), that of a decoding given")
        cells = mask_of(cells_of(self.mask.values, self.cache.size))
        plan = Plan(cells, self.mode, self.tile, self.grow, self.dense_above)
        done, whole = plan.work(self.cache.frames[0])
        text = planned(self.cache, plan)
        ctx.show(text=text)
        sparse = Sparse(self.cache, plan, self.statistics == "recomputed")
        model = replace(self.model, patches=(sparse, *self.model.patches))  # innermost: others see whole maps
        return self.Out(model=model, share=done / whole if whole else 1.0, report=text)


class SparseVAECache(Node, category="sparse", title="Sparse VAE Cache", aliases=("sige", "decode", "record")):
    """Decode as VAE Decode does and keep the decoder's activations, for sparse decodings of edited versions."""

    vae: VAE
    samples: Annotated[Latent, Field(description="The original.")]
    budget: Budget = 4096
    keep: Kept = "as computed"

    class Out(NamedTuple):
        image: Image
        cache: ActivationCache

    def run(self, ctx: Context) -> Out:
        try:
            return self.Out(*decoder.record(self.vae, self.samples, ctx.device, self.budget << 20, KEPT[self.keep]))
        except OverBudget as problem:
            raise NodeError(str(problem)) from problem


class SparseVAEDecode(Node, category="sparse", title="Sparse VAE Decode", aliases=("sige", "decode", "faster")):
    """Decode only where a latent differs from a recorded one; everywhere else the picture is the recorded one."""

    vae: VAE
    samples: Annotated[Latent, Field(description="The edited version.")]
    cache: Annotated[ActivationCache, Field(description="What Sparse VAE Cache kept of the original.")]
    mode: Shape = "auto"
    threshold: Annotated[float, number(0, 10, 0.001, "Cells count as different from this difference on, in units of the latent.")] = 0.0
    dilate: Annotated[int, number(0, 64, 1, "Cells of the latent that the region grows to each side.")] = 3
    dense_above: DenseAbove = 0.6

    class Out(NamedTuple):
        image: Image
        share: Annotated[float, Field(description="The part of the latent that was decoded anew.")]

    def run(self, ctx: Context) -> Out:
        if self.cache.latent is None:
            raise NodeError("cache: one that Sparse VAE Cache made is wanted, that of a sampled run given")
        if self.cache.latent.shape != self.samples.x.shape:
            wanted, given = tuple(self.cache.latent.shape), tuple(self.samples.x.shape)
            raise NodeError(f"samples: shape {wanted} is wanted as was recorded, {given} given")
        cells = decoder.changed(self.cache, self.samples, self.threshold, self.dilate)
        plan = Plan(cells, self.mode, grow=0, dense_above=self.dense_above)
        share = 1.0 if plan.dense else min(1.0, plan.region((cells.shape[0], cells.shape[1])).share)
        return self.Out(image=decoder.decode(self.vae, self.samples, self.cache, plan, ctx.device), share=share)
