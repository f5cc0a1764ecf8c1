"""Local blend (Hertz et al. 2022, sec. 4.1): the edit stays where the edited words are looked at, the rest is the source's."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from diffusion.pair import source_and_targets
from diffusion.patch import Attend, AttentionPatch, AttnCall, Run, Site, StepPatch
from diffusion.schedule import Step
from diffusion.text import token_indices
from diffusion.token_alignment import TokenAlignment
from diffusion.values import Mask, Model, Tokens
from graph_engine.errors import NodeError
from graph_engine.node import Node
from nodes.params import Unit, number

if TYPE_CHECKING:
    from graph_engine.context import Context

BRANCH = "positive"
SIDE = 16  # cells a side of the authors' maps


def looked_at(maps: Tensor, size: tuple[int, int], threshold: float, pool: bool = True) -> Tensor:
    """Where maps [n, h, w] are above a share of their greatest value, [n, *size]; each map by itself.

    Without any attention nothing is above it. `pool` widens them by a cell first, as the authors do for what is to change.
    """
    wide = F.max_pool2d(maps[:, None], 3, 1, 1) if pool else maps[:, None]
    wide = F.interpolate(wide, size)[:, 0]
    return wide > threshold * wide.amax((1, 2), keepdim=True)


def blended(x: Tensor, source: int, target: int, mask: Tensor) -> Tensor:
    """x_target ← x_source + mask·(x_target − x_source): exactly one of the two where the mask is 0 or 1."""
    return torch.where(mask >= 1, x[target], torch.lerp(x[source], x[target], mask.to(x)))


@dataclass(frozen=True, slots=True, eq=False)
class Blend(AttentionPatch, StepPatch):
    """After each step of a later share of the run the targets become the source, but for where their words are looked at.

    columns and less: for the source and each target, the tokens whose maps open the mask and close it.
    """

    columns: tuple[tuple[int, ...], ...]
    less: tuple[tuple[int, ...], ...]
    threshold: float
    start: float
    cells: int  # 0: of the maps outside of the middle block those nearest to 16 × 16
    mask: Tensor | None = None  # [n, h, w]: to be used instead of maps

    def begin(self, run: Run) -> Any:
        """A state that gathers maps. Raises ValueError where the model has no maps of the size."""
        scales = frozenset(site.scale for site in run.sites if site.cross and (site.place != "mid" or self.cells))
        if self.cells and self.cells not in scales and self.mask is None:
            raise ValueError(f"cells: one of {', '.join(map(str, sorted(scales)))} is wanted by this model, {self.cells} given")
        return _Blending(self, run.net.samples, frozenset({self.cells}) if self.cells else scales)


@dataclass(slots=True, eq=False)
class _Blending(AttentionPatch, StepPatch):
    patch: Blend
    samples: tuple[str, ...]
    scales: frozenset[int]
    seen: dict[str, Tensor] = field(default_factory=dict)  # "columns" and "less": [samples, h, w], summed over steps and layers

    @property
    def _by_maps(self) -> bool:
        return self.patch.mask is None and self.patch.threshold >= 0

    def at_site(self, site: Site) -> bool:
        """Cross-attention of one resolution."""
        if not site.cross or not self._by_maps:
            return False
        if site.place == "mid" and not self.patch.cells:
            return False
        side = min(site.size) * site.scale  # of the latent
        return site.scale == min(self.scales, key=lambda scale: (abs(math.log(side / scale / SIDE)), scale))

    def __call__(self, call: AttnCall, next: Attend) -> Tensor:
        """Attention as it is, with the maps of the words added up."""
        if BRANCH not in call.rows or call.step.index < 0:
            return next(call)
        first, batch = call.rows[BRANCH].start, call.rows.batch
        if not call.site.whole:
            raise NodeError("alignment: to blend by words, prompts for the whole picture are wanted, and these hold in an area; use mask")

        def keep(probs: Tensor) -> Tensor:
            mean = probs[first : first + batch].float().mean(1)  # (b, queries, keys)
            for name, columns in (("columns", self.patch.columns), ("less", self.patch.less)):
                self._add(name, mean, columns, call.site.size)
            return probs

        return next(call.edit_probs(keep))

    def _add(self, name: str, mean: Tensor, columns: tuple[tuple[int, ...], ...], size: tuple[int, int]) -> None:
        source, targets = source_and_targets(self.samples, len(mean))
        if len(columns) != 1 + len(targets):
            raise NodeError(f"alignment: it is for {len(columns) - 1} targets, and {len(targets)} are sampled")
        maps = mean.new_zeros(len(mean), *size)
        for row, own in zip((source, *targets), columns, strict=True):
            maps[row] = mean[row][:, list(own)].sum(-1).view(size)
        self.seen[name] = self.seen[name] + maps if name in self.seen else maps

    def after(self, x: Tensor, x0: Tensor, step: Step) -> Tensor:
        """The state with the source outside of the targets' masks; as it is while no map was seen, as under a prompt that begins later."""
        if step.index < int(self.patch.start * step.count + 1e-9) or (self._by_maps and not self.seen):
            return x
        source, targets = source_and_targets(self.samples, len(x))
        out = x.clone()
        for i, target in enumerate(targets):
            out[target] = blended(x, source, target, self._mask(i, source, target, x))
        return out

    def _mask(self, i: int, source: int, target: int, x: Tensor) -> Tensor:
        size = (x.shape[2], x.shape[3])
        if self.patch.mask is not None:
            given = self.patch.mask[i % len(self.patch.mask)].to(x)
            return F.interpolate(given[None, None], size, mode="bilinear")[0, 0]
        if self.patch.threshold < 0:
            return x.new_ones(size)
        rows = [source, target]
        mask = looked_at(self.seen["columns"][rows], size, self.patch.threshold).any(0)
        return mask & ~looked_at(self.seen["less"][rows], size, self.patch.threshold, pool=False).any(0)


def columns_of(tokens: Tokens, words: str, name: str) -> tuple[int, ...]:
    """The tokens of words or phrases separated by commas, wherever they stand. NodeError for one that the prompt does not have."""
    found: dict[int, None] = {}
    for word in filter(None, (word.strip() for word in words.split(","))):
        for occurrence in range(len(tokens)):
            try:
                found.update(dict.fromkeys(token_indices(tokens, word, occurrence, name=name)))
            except ValueError as problem:
                if occurrence == 0:
                    raise NodeError(str(problem)) from problem
                break
    return tuple(found)


def somewhere(prompts: list[Tokens], words: str, name: str) -> tuple[tuple[int, ...], ...]:
    """The same in each of several prompts, of which only one has to have a word."""
    found: list[tuple[int, ...]] = [() for _ in prompts]
    for word in filter(None, (word.strip() for word in words.split(","))):
        problem: NodeError | None = None
        missing = 0
        for i, tokens in enumerate(prompts):
            try:
                found[i] += columns_of(tokens, word, name)
            except NodeError as error:
                problem, missing = error, missing + 1
        if problem is not None and missing == len(prompts):
            raise problem
    return tuple(found)


# node


class LocalBlend(Node, category="editing/attention", title="Local Blend", aliases=("prompt-to-prompt", "p2p", "keep background")):
    """Let targets differ from the source beside them only where words are looked at, or in a mask (Hertz et al. 2022, sec. 4.1).

    After PromptToPrompt it sees the edited maps; it also serves other edits of a source and a target.
    """

    model: Annotated[Model, Field(description="Sample it on a batch of source and target (SourceAndTarget).")]
    alignment: Annotated[TokenAlignment, Field(description="The two prompts, from AlignPrompts.")]
    source_words: Annotated[str, Field(description="Words of the source prompt, separated by commas: where they are looked at may change.")]
    target_words: Annotated[str, Field(description="The same of the target prompt.")]
    without: Annotated[str, Field(description="Words of either prompt whose places are kept all the same.")] = ""
    threshold: Annotated[float, number(-1, 1, 0.01, "Share of the greatest attention that counts; 1 keeps all, below 0 nothing.")] = 0.3
    start: Annotated[Unit, Field(description="Blend after this share of the steps.")] = 0.2
    cells: Annotated[
        int, number(0, 64, 1, "Which maps: with so many latent cells a side for one of theirs; 0: those nearest to 16×16.")
    ] = 0
    mask: Annotated[Mask | None, Field(description="Where the targets may differ, instead of by words.")] = None

    def run(self, ctx: Context) -> Model:
        source, targets = self.alignment.source, [edit.tokens for edit in self.alignment.targets]
        columns = (columns_of(source, self.source_words, "source_words"), *somewhere(targets, self.target_words, "target_words"))
        less = somewhere([source, *targets], self.without, "without")
        if self.mask is None and not any(columns):
            raise NodeError("source_words: a word to blend by is wanted, here or in target_words, or a mask")
        mask = None if self.mask is None else self.mask.values
        return self.model.patched(Blend(columns, less, self.threshold, self.start, self.cells, mask))
