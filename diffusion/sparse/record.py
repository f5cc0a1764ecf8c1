"""The dense run whose activations are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
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
from diffusion.sparse.blocks import half, noted, plain, work
from diffusion.sparse.cache import ActivationCache, Frame, Layer
from diffusion.values import WeightsRef


class OverBudget(ValueError):
    """The activations of a run do not fit into what may be held."""


@dataclass(frozen=True, slots=True, eq=False)
class Record(FeaturePatch, AttentionPatch, StepPatch):
    """Keeps what every block makes, in every evaluation of the network, and changes nothing. `Recording.cache` has it at the end.

    Over the budget, `evict` lets go of the blocks of the evaluations that come later, so that sparse runs compute those densely; otherwise
    OverBudget is raised, as soon as the first evaluation tells what the run will take.
    """

    budget: int  # bytes
    evict: bool = False
    dtype: torch.dtype | None = None  # to keep in; None: as computed
    least: int = 1  # blocks whose output has a shorter side are not kept
    reserve: Callable[[int], None] | None = None  # told how many bytes the run will hold, to make room

    def begin(self, run: Run) -> Any:
        """The cache in the making."""
        weights = run.net.model.weights
        modules = {block.name: module for block, module in family(weights.family).blocks(run.net.unet)}
        return Recording(self, weights, modules, max(1, len(run.sigmas) - 1))


@dataclass(slots=True, eq=False)
class Recording(FeaturePatch, AttentionPatch, StepPatch):
    """The patch during one session."""

    record: Record
    weights: WeightsRef
    modules: dict[str, nn.Module]
    steps: int  # that will come at least
    size: tuple[int, int] = (0, 0)
    frames: list[Frame] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)
    keys: list[tuple[str, Tensor, Tensor]] = field(default_factory=list)
    held: int = 0

    def cache(self) -> ActivationCache:
        """What was kept."""
        return ActivationCache(self.weights, self.size, tuple(self.frames), tuple(self.states))

    def before(self, x: Tensor, step: Step) -> Tensor:
        """The state, noted."""
        self.states.append(x.detach())
        return x

    def residuals(self, call: NetCall) -> None:
        """Nothing; a new evaluation begins."""
        if any(box is not None for box in call.boxes):
            raise ValueError("conditioning: an activation cache cannot be made of prompts that hold in a part of the picture only")
        self.size = call.full
        self.layers = []

    def at_block(self, block: Block) -> bool:
        """All that can be computed in parts."""
        return plain(block, self.modules[block.name])

    def at_site(self, site: Site) -> bool:
        """Self-attention."""
        return not site.cross

    def __call__(self, call: AttnCall, next: Attend) -> Tensor:
        """Attention as it is; keys and values are noted."""
        self.keys.append((call.site.name, half(call.k, self.record.dtype), half(call.v, self.record.dtype)))
        return next(call)

    def block(self, call: BlockCall, next: RunBlock) -> Tensor:
        """The block as it is; its output is noted."""
        block, module, record = call.block, self.modules[call.block.name], self.record
        self.keys = []
        with noted(block, module) as norms:
            out = next(call)
        last = block.place == "out"
        if min(out.shape[2:]) >= record.least or last:
            kept = out.detach() if last else half(out, record.dtype)  # the output of the network stays exact
            self.layers.append(Layer(block.name, kept, tuple(norms.items()), tuple(self.keys), work(block, module, out)))
        if last:
            self._close(Frame(call.step.sigma, call.rows, tuple(self.layers)))
        return out

    def _close(self, frame: Frame) -> None:
        record, steps = self.record, self.steps
        if not self.frames:
            wanted = frame.nbytes * steps
            if wanted > record.budget and not record.evict:
                raise OverBudget(_over(frame.nbytes, steps, record.budget))
            if record.reserve is not None:
                record.reserve(min(wanted, record.budget))
        if self.held + frame.nbytes > record.budget:
            if not record.evict:
                raise OverBudget(_over(frame.nbytes, len(self.frames) + 1, record.budget))
            frame = Frame(frame.sigma, frame.rows, frame.layers[-1:])
        self.held += frame.nbytes
        self.frames.append(frame)


def _over(each: int, count: int, budget: int) -> str:
    return (
        f"budget: {count} evaluations of {each / 2**20:.0f} MiB take {each * count / 2**20:.0f} MiB, {budget / 2**20:.0f} MiB given; "
        "use fewer steps, keep half precision, or let go of later steps"
    )
