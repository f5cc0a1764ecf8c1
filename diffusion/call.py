"""The records that patches are handed: where in the run, which rows, at which attention module or block, with which tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from diffusion.values import Conditioning


@dataclass(frozen=True, slots=True)
class Moment:
    """Where in a run a network evaluation happens. Solvers of higher order evaluate more than once per step."""

    index: int  # sampling step, 0 first; -1 outside of any step
    count: int  # number of sampling steps; 0 when not known
    sigma: float  # noise level of the evaluation, VE form
    t: int  # training timestep handed to the network


@dataclass(frozen=True, slots=True)
class Rows:
    """Names for the rows of one network batch: branches of the guidance, and samples (pictures) inside each branch.

    ``rows["positive"]`` is the slice of a branch, ``rows["target"]`` that of a named sample through all branches,
    ``rows["positive", "target"]`` (or a number for the sample) that of one sample in one branch.
    """

    branches: tuple[tuple[str, int, int], ...]  # name, first row, row after the last; in order, without gaps
    batch: int  # samples per entry: rows b·batch … (b + 1)·batch belong to entry b
    samples: tuple[str, ...] = ()  # names of the samples, at most `batch` of them

    def __len__(self) -> int:
        return self.branches[-1][2] if self.branches else 0

    def __iter__(self) -> Iterator[str]:
        return iter([*(name for name, _, _ in self.branches), *self.samples])

    def __contains__(self, name: object) -> bool:
        return name in self.samples or any(branch == name for branch, _, _ in self.branches)

    def __getitem__(self, name: str | tuple[str, str | int]) -> slice:
        if isinstance(name, tuple):
            found = self._branch(name[0])
            if found is None:
                raise KeyError(self._missing(name[0]))
            return slice(found.start + self._sample(name[1]), found.stop, self.batch)
        found = self._branch(name)
        if found is not None:
            return found
        return slice(self._sample(name), len(self), self.batch)

    def _branch(self, name: str) -> slice | None:
        return next((slice(first, end) for branch, first, end in self.branches if branch == name), None)

    def _sample(self, name: str | int) -> int:
        if isinstance(name, int):
            if not 0 <= name < self.batch:
                raise KeyError(f"no sample {name}: the batch has {self.batch}")
            return name
        if name not in self.samples:
            raise KeyError(self._missing(name))
        return self.samples.index(name)

    def _missing(self, name: str) -> str:
        return f"no rows are called {name!r} here; there are {', '.join(self) or 'none'}"


@dataclass(frozen=True, slots=True)
class Site:
    """One attention module of a denoiser."""

    name: str  # path of the module
    place: str  # "down", "mid" or "up"
    block: int  # which block of that place, in order of execution
    index: int  # position among all attention modules, in order of execution
    cross: bool  # attends to the text instead of the picture
    scale: int  # latent cells per query along one side: 1, 2, 4, …
    size: tuple[int, int] = (0, 0)  # height and width of the queries; known inside a call
    whole: bool = True  # the queries are of the whole picture, not of an area that a prompt holds in; known inside a call


@dataclass(frozen=True, slots=True)
class Block:
    """One tappable block of a denoiser: its name is place, number and layer, as in "up.1.resnet.0" or "mid.attention.0"."""

    name: str
    kind: str  # "resnet", "attention", "sampler" or "conv"
    place: str  # "in", "down", "mid", "up" or "out"
    block: int
    index: int  # position among all blocks, in order of execution
    scale: int  # latent cells per feature along one side, at the block's input
    split: int | None = None  # up resnets: this many channels come from below, the rest is the skip connection


@dataclass(frozen=True, slots=True, eq=False)
class AttnCall:
    """One attention computation: softmax(q kᵀ·scale + bias) v, with edits of the probabilities before they meet v."""

    q: Tensor  # [rows, heads, queries, d]
    k: Tensor  # [rows, heads, keys, d]
    v: Tensor  # [rows, heads, keys, d]
    site: Site
    rows: Rows
    step: Moment
    scale: float
    hidden: Tensor  # [rows, queries, width]: what q was projected from
    context: Tensor  # [rows, keys, width]: what k and v were projected from, before patches changed it
    bias: Tensor | None = None  # broadcasts to [rows, heads, queries, keys], in units of the scaled logits
    edits: tuple[Callable[[Tensor], Tensor], ...] = ()

    def logits(self) -> Tensor:
        """Scaled dot products with the bias, [rows, heads, queries, keys]."""
        scores = (self.q @ self.k.transpose(-1, -2)) * self.scale
        return scores if self.bias is None else scores + self.bias

    def probs(self) -> Tensor:
        """Attention probabilities before any edit, [rows, heads, queries, keys]; softmax in float32."""
        return self.logits().float().softmax(-1).to(self.q.dtype)

    def edit_probs(self, edit: Callable[[Tensor], Tensor]) -> AttnCall:
        """The same call with one more edit of the probabilities; the edit returns a new tensor, or the one it got.

        Edits run inside out: a patch sees what the patches that it wraps have made of the probabilities.
        """
        return replace(self, edits=(*self.edits, edit))

    def add_bias(self, bias: Tensor) -> AttnCall:
        """The same call with this added to the scaled logits."""
        return replace(self, bias=bias if self.bias is None else self.bias + bias)

    def swap_kv(self, frm: slice, to: slice) -> AttnCall:
        """The same call, in which the rows `to` read the keys and values of the rows `frm`."""
        return replace(self, k=copy_rows(self.k, frm, to), v=copy_rows(self.v, frm, to))

    def swap_q(self, frm: slice, to: slice) -> AttnCall:
        """The same call, in which the rows `to` ask the queries of the rows `frm`."""
        return replace(self, q=copy_rows(self.q, frm, to))


def copy_rows(x: Tensor, frm: slice, to: slice) -> Tensor:
    """A copy of x whose rows `to` are its rows `frm`; one source row serves several target rows."""
    out = x.clone()
    out[to] = x[frm]
    return out


@dataclass(frozen=True, slots=True, eq=False)
class BlockCall:
    """One evaluation of a block."""

    h: Tensor  # [rows, channels, height, width]; skip features included where block.split is set
    block: Block
    rows: Rows
    step: Moment
    reach: tuple[int, int] | None = None  # height and width that a sampler on the way up is to give; None: its own factor


@dataclass(frozen=True, slots=True, eq=False)
class NetCall:
    """One evaluation of the whole network, as side networks such as ControlNet need to see it."""

    x: Tensor  # [rows, c, h, w], scaled for the network
    context: Tensor  # [rows, n, d]
    rows: Rows
    step: Moment
    boxes: tuple[tuple[int, int, int, int] | None, ...]  # per entry: height, width, y, x of its crop in cells; None for all of the …
    full: tuple[int, int]  # … latent, which has this height and width
    added: Mapping[str, Tensor] = field(default_factory=dict)  # what the network is told beside the text: SDXL's text_embeds, time_ids
    aside: Tensor | None = None  # [rows, n, d]: text for side networks alone; None: they read the context


@dataclass(frozen=True, slots=True, eq=False)
class Residuals:
    """What a side network adds: to the skip connections (`down`, execution order) and the middle, or inside the down blocks."""

    down: tuple[Tensor, ...] = ()
    mid: Tensor | None = None
    intra: tuple[Tensor, ...] = ()  # T2I-Adapter: one per down block


@dataclass(frozen=True, slots=True, eq=False)
class GuideCall:
    """The unguided predictions of one step and the means to make more of them. All are denoised pictures D (VE form)."""

    x: Tensor  # [b, c, h, w], VE form
    step: Moment
    preds: Mapping[str, Tensor]  # by branch
    predict: Callable[[Conditioning, Tensor], Tensor]  # a further evaluation: conditioning, x → D
