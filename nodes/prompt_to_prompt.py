"""Prompt-to-Prompt (Hertz et al. 2022): the edit looks where the source looks, word by word, for a share of the run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from diffusion.pair import Pinned, pairs, source_and_targets
from diffusion.patch import Attend, AttentionPatch, AttnCall, Moment, Rows, Run, Site
from diffusion.session import Net
from diffusion.token_alignment import TokenAlignment, align, columns
from diffusion.values import Conditioning, Model, Trajectory
from graph_engine.errors import NodeError
from graph_engine.node import Node
from nodes.params import Unit, number

if TYPE_CHECKING:
    from graph_engine.context import Context

BRANCH = "positive"  # the rows that are edited; guidance's other branches are left alone
ADVICE = "align the very prompts that are sampled"
TINY = 1e-9  # 0.29 · 100 is 28.999…96

Edit = tuple[int, int, Tensor | None, Tensor | None]  # source row, target row, B (None: the identity) and own (None: zero) of `columns`


def in_window(step: Moment, start: float | Tensor, end: float | Tensor, count: int) -> Any:
    """Whether a step is in the part of a run of `count` that goes from one share to another, its end not included."""
    first, last = (torch.as_tensor(share).mul(count).add(TINY).floor() for share in (start, end))
    return (first <= step.index) & (step.index < last)


def edited_maps(probs: Tensor, edits: list[Edit]) -> Tensor:
    """probs [rows, heads, queries, keys] with M_source·B + M_target·own in the targets' rows (alg. 1, Edit(M, M*, t))."""
    out = probs.clone()
    for source, target, b, own in edits:
        taken = probs[source] if b is None else probs[source] @ b.to(probs)
        out[target] = taken if own is None else taken + probs[target] * own.to(probs)
    return out


def edited_values(call: AttnCall, edits: list[Edit], next: Attend) -> Tensor:
    """What `edited_maps` gives after it met v, without the maps: (M_source·B + M_target·own)·v = M_source·(B v) + M_target·(own v).

    Both terms are ordinary attention, the first by the source's queries and keys. It is exact, for the edit is linear in the maps.
    """
    q, k, v = call.q.clone(), call.k.clone(), call.v.clone()
    bias = call.bias.expand(len(q), *call.bias.shape[1:]).clone() if call.bias is not None else None
    for source, target, b, _ in edits:
        q[target], k[target] = call.q[source], call.k[source]
        if b is not None:
            v[target] = b.to(v) @ call.v[target]
        if bias is not None:
            bias[target] = bias[source]
    out = next(replace(call, q=q, k=k, v=v, bias=bias))
    kept = [(target, own) for _, target, _, own in edits if own is not None]
    if kept:
        rows = [target for target, _ in kept]
        own_v = call.v[rows] * torch.stack([own for _, own in kept]).to(v)[:, None, :, None]
        own_bias = None if call.bias is None else call.bias.expand(len(q), *call.bias.shape[1:])[rows]
        out = out.clone()
        out[rows] += next(replace(call, q=call.q[rows], k=call.k[rows], v=own_v, bias=own_bias))
    return out


@dataclass(frozen=True, slots=True, eq=False)
class AttentionControl(AttentionPatch):
    """Replace, refine and reweight in one: the targets' cross-attention is edited from the source's, their self-attention taken over."""

    alignment: TokenAlignment
    cross_replace: float  # share of the run, for words without a window of their own
    self_replace: float
    cells: int  # self-attention maps of at least so many latent cells a side for one of theirs

    def begin(self, run: Run) -> Any:
        """A state for one run, which knows whether another patch computes inside of this one."""
        around = [patch for patch in run.net.model.patches if isinstance(patch, AttentionPatch)]
        return _Controlling(self, run.net, alone=bool(around) and around[0] is self)


@dataclass(slots=True, eq=False)
class _Controlling(AttentionPatch):
    patch: AttentionControl
    net: Net
    alone: bool
    aligned: bool = False  # it was seen that the alignment is that of the prompts
    steps: dict[tuple[int, int, int], list[tuple[Tensor | None, Tensor | None] | None]] = field(default_factory=dict)

    def at_site(self, site: Site) -> bool:
        """All cross-attention, and self-attention that is coarse enough."""
        return site.cross or (self.patch.self_replace > 0 and site.scale >= self.patch.cells)

    def __call__(self, call: AttnCall, next: Attend) -> Tensor:
        """Attention with the targets' maps edited; probabilities are formed only where another patch looks at them."""
        if BRANCH not in call.rows or call.step.index < 0:
            return next(call)
        sources, targets = pairs(call.rows, BRANCH)
        if not self.aligned:
            self._check(call.rows)
        if not call.site.cross:
            if not in_window(call.step, 0.0, self.patch.self_replace, call.step.count):
                return next(call)
            q, k = call.q.clone(), call.k.clone()
            q[targets], k[targets] = call.q[sources], call.k[sources]
            return next(replace(call, q=q, k=k))
        found = self._columns(call.step, call.k.shape[2], call.k) * (len(targets) // len(self.patch.alignment.targets))  # of each entry
        edits = [(s, t, *edit) for s, t, edit in zip(sources, targets, found, strict=True) if edit is not None]
        if not edits:
            return next(call)
        if self.alone and not call.edits:
            return edited_values(call, edits, next)
        return next(call.edit_probs(lambda probs: edited_maps(probs, edits)))

    def _check(self, rows: Rows) -> None:
        """Raise NodeError where other prompts are sampled than those that were aligned."""
        alignment, (source, targets) = self.patch.alignment, source_and_targets(rows.samples, rows.batch)
        wanted = [alignment.source, *(edit.tokens for edit in alignment.targets)]
        if len(targets) != len(alignment.targets):
            raise NodeError(f"alignment: it is for {len(alignment.targets)} targets, and {len(targets)} are sampled; {ADVICE}")
        for entry in self.net.branches[BRANCH]:
            given = [entry.tokens[row % len(entry.tokens)] for row in (source, *targets)] if entry.tokens else wanted
            if [tokens.ids for tokens in given] != [tokens.ids for tokens in wanted]:
                was, now = (", ".join(repr(tokens.text) for tokens in prompts) for prompts in (wanted, given))
                raise NodeError(f"alignment: it is of {was}, and {now} are sampled; {ADVICE}")
        self.aligned = True

    def _columns(self, step: Moment, keys: int, like: Tensor) -> list[tuple[Tensor | None, Tensor | None] | None]:
        """For each target B and own at a step; None where nothing is edited."""
        key = (step.index, step.count, keys)
        if key not in self.steps:
            self.steps[key] = [self._of(step, keys, i, like) for i in range(len(self.patch.alignment.targets))]
        return self.steps[key]

    def _of(self, step: Moment, keys: int, i: int, like: Tensor) -> tuple[Tensor | None, Tensor | None] | None:
        edit = self.patch.alignment.targets[i]
        whole = torch.tensor([0.0, self.patch.cross_replace])
        start, end = torch.where(edit.window.isnan(), whole, edit.window).unbind(1)
        alpha = in_window(step, start, end, step.count + 1).float()  # the authors' table of words has a row more than steps
        if not alpha.any():
            return None
        b, own = columns(edit, self.patch.alignment.source, alpha, keys)
        return None if torch.equal(b, torch.eye(keys)) else b.to(like), own.to(like) if own.any() else None


# nodes

TheAlignment = Annotated[TokenAlignment, Field(description="Which word stands for which.")]
Occurrence = Annotated[int, number(0, 100, 1, "Which of several places in the prompt, counted from 0.")]
Word = Annotated[str, Field(description="A word or phrase of the target prompt.")]


class AlignPrompts(Node, category="editing/attention", title="Align Prompts", aliases=("prompt-to-prompt", "token mapper")):
    """Find which word of the target prompt takes the place of which of the source's (Hertz et al. 2022, sec. 3.2)."""

    positive: Annotated[Conditioning, Field(description="Source and target as one batch, from SourceAndTarget.")]
    mode: Annotated[
        Literal["refine", "replace"],
        Field(description="refine: common words in order, the rest is new; replace: word by word, for prompts of as many words."),
    ] = "refine"

    def run(self, ctx: Context) -> TokenAlignment:
        return align(self.positive, self.mode)


class ReweightWord(Node, category="editing/attention", title="Reweight Word", aliases=("prompt-to-prompt", "equalizer")):
    """Have a word of the target attended to more or less, while its columns are edited (Hertz et al. 2022, sec. 3.2, eq. 3)."""

    alignment: TheAlignment
    word: Word
    scale: Annotated[float, number(-100, 100, 0.1, "c: factor of its attention; 1 changes nothing, below 0 turns its effect around.")] = 2.0
    occurrence: Occurrence = 0

    def run(self, ctx: Context) -> TokenAlignment:
        return self.alignment.scaled(self.word, self.scale, self.occurrence)


class WordWindow(Node, category="editing/attention", title="Word Window", aliases=("prompt-to-prompt", "cross_replace_steps")):
    """Edit a word of the target in a part of the run of its own; the rest keep to PromptToPrompt's cross_replace."""

    alignment: TheAlignment
    word: Word
    start: Annotated[Unit, Field(description="From this share of the steps …")] = 0.0
    end: Annotated[Unit, Field(description="… to this one.")] = 0.4
    occurrence: Occurrence = 0

    def run(self, ctx: Context) -> TokenAlignment:
        if self.start > self.end:
            raise NodeError(f"start: at most end, which is {self.end}, is wanted, {self.start} given")
        return self.alignment.windowed(self.word, self.start, self.end, self.occurrence)


class PromptToPrompt(Node, category="editing/attention", title="Prompt-to-Prompt", aliases=("p2p", "cross-attention control")):
    """Edit a picture by its prompt: the target looks where a source beside it in the batch looks (Hertz et al. 2022, alg. 1)."""

    model: Annotated[Model, Field(description="Sample it on a batch of source and target (SourceAndTarget).")]
    alignment: TheAlignment
    cross_replace: Annotated[Unit, Field(description="Cross-attention is edited for this share of the steps.")] = 0.8
    self_replace: Annotated[Unit, Field(description="Self-attention is the source's for this share; high holds the shapes.")] = 0.4
    cells: Annotated[
        int,
        number(1, 64, 1, "Self-attention maps with at least so many latent cells a side for one of theirs: 2 is up to 32×32 at 512."),
    ] = 2
    trajectory: Annotated[Trajectory | None, Field(description="A real picture's way into noise: the source keeps to it.")] = None

    def run(self, ctx: Context) -> Model:
        model = self.model if self.trajectory is None else self.model.patched(Pinned(self.trajectory))
        return model.patched(AttentionControl(self.alignment, self.cross_replace, self.self_replace, self.cells))
