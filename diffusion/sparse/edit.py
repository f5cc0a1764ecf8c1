"""The sparse run: what an edit reaches is computed, everything else is taken from the cache."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from diffusion.family import family
from diffusion.patch import (
    Attend,
    AttentionPatch,
    AttnCall,
    Block,
    BlockCall,
    FeaturePatch,
    NetCall,
    Run,
    RunBlock,
    Site,
    StepPatch,
)
from diffusion.schedule import Step
from diffusion.sparse.blocks import fresh, plain
from diffusion.sparse.cache import ActivationCache, Frame, Layer
from diffusion.sparse.convolve import convolving
from diffusion.sparse.difference import active
from diffusion.sparse.region import Mode, Region, chosen, gather, places, scatter


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Which part of each feature map to compute: by the size of the map (Li et al. 2022, sec. 3.2: a pyramid of the difference mask)."""

    mask: Tensor  # bool [h, w], the cells of the latent that were edited
    mode: Mode = "auto"
    tile: int = 4
    grow: int = 1  # cells at each size
    dense_above: float = 0.6  # a larger share of a map is computed whole; of the latent, the whole run

    def region(self, size: tuple[int, int]) -> Region:
        """The region of a map of this size; nothing for an empty mask."""
        return chosen(active(self.mask, size, self.grow), self.mode, self.tile)

    @property
    def dense(self) -> bool:
        """Whether so much was edited that a sparse run would not pay."""
        return self.region((self.mask.shape[0], self.mask.shape[1])).share > self.dense_above

    def work(self, frame: Frame) -> tuple[float, float]:
        """About how many multiplications for one row a sparse evaluation takes, and a dense one; blocks that are not kept are left out."""
        done, whole = 0.0, 0.0
        for layer in frame.layers:
            share = self.region((layer.out.shape[2], layer.out.shape[3])).share
            whole += layer.work
            done += layer.work * (1 if share > self.dense_above or self.dense else share)
        return done, whole


@dataclass(frozen=True, slots=True, eq=False)
class Sparse(FeaturePatch, AttentionPatch, StepPatch):
    """Computes the region of a plan anew in every block and leaves the rest as it was recorded (SIGE, Li et al. 2022, sec. 3).

    Belongs innermost, before all other patches of a model, so that those see whole maps. Outside of the latent's region the run repeats the
    original bit for bit.
    """

    cache: ActivationCache
    plan: Plan
    exact: bool = False  # normalisations' statistics are those of the edited maps instead of the original's

    def begin(self, run: Run) -> Any:
        """The run so far."""
        if run.net.model.weights != self.cache.weights:
            raise ValueError(
                f"model: the cache was recorded with {self.cache.weights.source}, a run with {run.net.model.weights.source} is asked"
            )
        modules = {block.name: module for block, module in family(run.net.model.weights.family).blocks(run.net.unet)}
        return Editing(self, modules, self.plan.dense)


@dataclass(slots=True, eq=False)
class Editing(FeaturePatch, AttentionPatch, StepPatch):
    """The patch during one session."""

    sparse: Sparse
    modules: dict[str, nn.Module]
    dense: bool
    seen: int = 0  # evaluations so far
    stepped: int = 0
    layers: dict[str, Layer] = field(default_factory=dict)
    regions: dict[tuple[int, int], Region] = field(default_factory=dict)
    now: tuple[Region, Layer] | None = None  # inside of a block

    def region(self, size: tuple[int, int]) -> Region:
        """The plan's region of a map of this size."""
        if size not in self.regions:
            self.regions[size] = self.sparse.plan.region(size)
        return self.regions[size]

    def before(self, x: Tensor, step: Step) -> Tensor:
        """The state: the original's outside of the region."""
        cache, at = self.sparse.cache, self.stepped
        self.stepped += 1
        if self.dense:
            return x
        if at >= len(cache.states) or cache.states[at].shape != x.shape:
            raise _unlike(f"step {at + 1} of shape {tuple(x.shape)}", f"{len(cache.states)} steps of {_shape(cache)}")
        state = cache.states[at].to(x)
        region = self.region((x.shape[2], x.shape[3]))
        return state if not len(region) else scatter(state.clone(), region, gather(x, region))

    def residuals(self, call: NetCall) -> None:
        """Nothing; the next evaluation begins."""
        self.layers = {}
        if self.dense:
            return
        frames, at = self.sparse.cache.frames, self.seen
        self.seen += 1
        if at >= len(frames):
            raise _unlike(f"evaluation {at + 1}", f"{len(frames)} evaluations")
        frame = frames[at]
        alike = frame.rows.branches == call.rows.branches and frame.rows.batch == call.rows.batch and self.sparse.cache.size == call.full
        if abs(frame.sigma - call.step.sigma) > 1e-4 * frame.sigma or not alike:
            names = ", ".join(name for name, _, _ in call.rows.branches)
            was = ", ".join(name for name, _, _ in frame.rows.branches)
            size, cached = (" × ".join(map(str, s)) for s in (call.full, self.sparse.cache.size))
            raise _unlike(
                f"evaluation {at + 1} at noise level {call.step.sigma:.4g} of {names}, batch {call.rows.batch}, {size} cells",
                f"one at {frame.sigma:.4g} of {was}, batch {frame.rows.batch}, {cached} cells",
            )
        self.layers = {layer.name: layer for layer in frame.layers}

    def at_block(self, block: Block) -> bool:
        """All that can be computed in parts."""
        return plain(block, self.modules[block.name])

    def at_site(self, site: Site) -> bool:
        """Self-attention."""
        return not site.cross

    def __call__(self, call: AttnCall, next: Attend) -> Tensor:
        """Attention of the region's cells to all: their own keys and values among the original's."""
        if self.now is None:
            return next(call)
        region, layer = self.now
        index, on = places(region, call.k.device)
        kept = {name: (k, v) for name, k, v in layer.keys}[call.site.name]
        k, v = (
            old.to(new, copy=True).index_copy_(2, index, new if on is None else new[:, :, on])
            for old, new in zip(kept, (call.k, call.v), strict=True)
        )
        return next(replace(call, k=k, v=v))

    def block(self, call: BlockCall, next: RunBlock) -> Tensor:
        """The recorded output, with the region computed anew."""
        layer = self.layers.get(call.block.name)
        if layer is None:
            return next(call)
        region = self.region((layer.out.shape[2], layer.out.shape[3]))
        if not len(region):
            return layer.out.to(call.h)
        if region.share > self.sparse.plan.dense_above:
            with convolving(self.modules[call.block.name]):
                return next(call)
        self.now = (region, layer)
        try:
            part = fresh(call.block, self.modules[call.block.name], call, next, region, layer, self.sparse.exact)
        finally:
            self.now = None
        return scatter(layer.out.to(part, copy=True), region, part)


def _shape(cache: ActivationCache) -> str:
    return f"shape {tuple(cache.states[0].shape)}" if cache.states else "no shape"


def _unlike(asked: str, recorded: str) -> ValueError:
    return ValueError(
        f"sparse run: {asked} is asked, {recorded} recorded; use the noise, sampler, levels, guidance and size of the recorded run"
    )


def mask_of(cells: Tensor) -> Tensor:
    """A mask as a plan takes it, on the host: regions are planned there."""
    return cells.to("cpu", torch.bool)
