"""A source picture and pictures made from it as rows of one batch, and a source row that keeps to a stored path."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from diffusion.patch import Rows, Run, StepPatch
from diffusion.schedule import Step
from diffusion.trajectory import check_path
from diffusion.values import Cond, Conditioning, Trajectory

SOURCE = "source"
MOST_REPEATS = 8  # of a token axis, until it is as long as another
OWN = frozenset({"embeds", "pooled", "tokens"})  # what rows of one entry may differ in


def source_and_targets(samples: Sequence[str], batch: int) -> tuple[int, tuple[int, ...]]:
    """Which sample of a batch is the source, and which are made from it.

    By name: "source", and all others that have a name. In a batch without names the first one is the source of the rest. Raises
    ValueError where there is no source or nothing beside it.
    """
    if samples and SOURCE not in samples:
        raise ValueError(f"samples: one called {SOURCE!r} is wanted, {', '.join(samples)} given")
    source = samples.index(SOURCE) if samples else 0
    targets = tuple(i for i in range(len(samples) if samples else batch) if i != source)
    if not targets:
        raise ValueError("latent: a batch of a source and a target is wanted, one picture given; use SourceAndTarget")
    return source, targets


def pairs(rows: Rows, branch: str | None = None) -> tuple[list[int], list[int]]:
    """(source rows, target rows), one by one, of a branch or of all: row i of the second is made from row i of the first."""
    source, targets = source_and_targets(rows.samples, rows.batch)
    span = slice(0, len(rows)) if branch is None else rows[branch]
    firsts = range(span.start, span.stop, rows.batch)
    return [first + source for first in firsts for _ in targets], [first + target for first in firsts for target in targets]


def stacked(source: Conditioning, target: Conditioning) -> Conditioning:
    """A conditioning whose rows are those of the source's embeddings and then those of the target's, entry by entry.

    Token axes are repeated to one length, which attention does not notice. Raises ValueError where the two have different numbers of
    entries, say different things beside the text (an area, a range of steps, a ControlNet), or would have to be repeated more than
    MOST_REPEATS times.
    """
    if len(source) != len(target):
        raise ValueError(f"target: {len(source)} entries are wanted as source has, {len(target)} given")

    def one(a: Cond, b: Cond) -> Cond:
        other = [name for name in (f.name for f in fields(Cond)) if name not in OWN and not _alike(getattr(a, name), getattr(b, name))]
        if other or b.per_step is not None:
            raise ValueError(f"target: {', '.join(other) or 'per_step'} as in source is wanted; set it on both after Source and Target")
        length = math.lcm(a.embeds.shape[1], b.embeds.shape[1])
        if length // min(a.embeds.shape[1], b.embeds.shape[1]) > MOST_REPEATS:
            raise ValueError(f"target: as many tokens as in source are wanted, {a.embeds.shape[1]} and {b.embeds.shape[1]} given")
        embeds = torch.cat([e.repeat(1, length // e.shape[1], 1) for e in (a.embeds, b.embeds)])
        pooled = None if a.pooled is None or b.pooled is None else torch.cat([a.pooled, b.pooled])
        tokens = (*a.tokens, *b.tokens) if a.tokens and b.tokens else ()
        return replace(b, embeds=embeds, pooled=pooled, tokens=tokens)

    return Conditioning(tuple(one(a, b) for a, b in zip(source, target, strict=True)))


def _alike(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    if isinstance(a, tuple) and isinstance(b, tuple):  # patches, which may hold tensors
        return len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))
    return a is b or bool(a == b)


def state_at(path: Trajectory, sigma: float) -> Tensor:
    """The state [b, c, h, w] of a path at a level; between two of its levels on the line that a DDIM step draws.

    Raises ValueError beyond its noisiest level.
    """
    levels = path.sigmas.tolist()
    if sigma > levels[-1] * (1 + 1e-4):
        raise ValueError(f"trajectory: it reaches level {levels[-1]:.4g}, and {sigma:.4g} is asked for; sample with its own sigmas")
    k = min(range(len(levels)), key=lambda i: abs(levels[i] - sigma))
    if math.isclose(levels[k], sigma, rel_tol=1e-4, abs_tol=1e-6):
        return path.latents[k]
    above = next(i for i, level in enumerate(levels) if level > sigma)
    if above == 0:
        return path.latents[0]
    share = (sigma - levels[above - 1]) / (levels[above] - levels[above - 1])
    return torch.lerp(path.latents[above - 1], path.latents[above], share)


@dataclass(frozen=True, slots=True, eq=False)
class Pinned(StepPatch):
    """The source row follows a stored path: each step starts from the path's own state (Ju et al. 2024, the source branch)."""

    path: Trajectory

    def __post_init__(self) -> None:
        if self.path.latents.shape[1] != 1:
            raise ValueError(f"trajectory: that of one picture is wanted, of {self.path.latents.shape[1]} given")

    def begin(self, run: Run) -> Any:
        """A state that knows the names of the rows. Raises ValueError for a path of another kind of model."""
        check_path(self.path, run.net.latent)
        return _Pinning(self.path, run.net.samples)


@dataclass(frozen=True, slots=True, eq=False)
class _Pinning(StepPatch):
    path: Trajectory
    samples: tuple[str, ...]

    def before(self, x: Tensor, step: Step) -> Tensor:
        """The batch with the source where the path has it."""
        return self._put(x, step.sigma)

    def after(self, x: Tensor, x0: Tensor, step: Step) -> Tensor:
        """The same where the step arrives, so that what wraps this, a local blend say, sees the path and not the step's error."""
        return self._put(x, step.sigma_next)

    def _put(self, x: Tensor, sigma: float) -> Tensor:
        source, _ = source_and_targets(self.samples, len(x))
        if self.path.latents.shape[2:] != x.shape[1:]:
            wanted, given = (tuple(shape) for shape in (x.shape[1:], self.path.latents.shape[2:]))
            raise ValueError(f"trajectory: one of latents {wanted} is wanted as is sampled, {given} given")
        x = x.clone()
        x[source] = state_at(self.path, sigma)[0].to(x)
        return x
