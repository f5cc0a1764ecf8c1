"""Attend-and-Excite (Chefer et al. 2023): in the first steps the state is moved until every chosen word is looked at somewhere."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from diffusion.patch import Attend, AttentionPatch, AttnCall, Run, Site, StepPatch
from diffusion.schedule import Step
from diffusion.session import Net
from diffusion.text import token_indices
from diffusion.values import Model
from diffusion.watch import BRANCH, Watch, descended, maps_and_state
from graph_engine.errors import NodeError
from graph_engine.node import Node
from nodes.params import StepNumber, number

if TYPE_CHECKING:
    from graph_engine.context import Context

SPREAD = 0.5 * math.sqrt(2)  # cells: the authors' kernel of 3 cells, which they write exp(−(d / 2s)²) with s = 0.5


def smoothed(maps: Tensor) -> Tensor:
    """Maps [n, h, w] under the authors' small Gaussian, mirrored at the border."""
    line = torch.exp(-0.5 * (torch.tensor([-1.0, 0.0, 1.0], device=maps.device) / SPREAD) ** 2)
    kernel = line[:, None] * line
    return F.conv2d(F.pad(maps[:, None], (1, 1, 1, 1), mode="reflect"), (kernel / kernel.sum())[None, None])[:, 0]


def neglect(maps: Tensor, subjects: Iterable[tuple[int, ...]], sharpness: float) -> Tensor:
    """max_s (1 − max A_s) of one picture: how little its most neglected word is looked at (alg. 1, lines 2-8).

    maps [h, w, tokens] are mean probabilities; a softmax of `sharpness` over all tokens but the first and the last makes them shares, which
    brings out what little a prompt's begin leaves. Sharpness 0 takes the probabilities as they are. A word of several tokens counts by the
    mean of their maps.
    """
    shares = (maps[..., 1:-1] * sharpness).softmax(-1) if sharpness else maps[..., 1:-1]
    words = torch.stack([shares[..., [i - 1 for i in subject]].mean(-1) for subject in subjects])
    return (1 - smoothed(words).amax((1, 2))).clamp(min=0).max()


def losses(maps: list[tuple[Site, Tensor]], subjects: list[list[tuple[int, ...]]], sharpness: float) -> Tensor:
    """`neglect` of every picture of a batch, [b], from the maps of all layers and heads; 0 without words."""
    mean = torch.cat([probs for _, probs in maps], 1).mean(1)  # (b, queries, tokens)
    height, width = maps[0][0].size
    pictures = zip(mean, subjects, strict=True)
    return torch.stack([neglect(m.reshape(height, width, -1), s, sharpness) if s else m.sum() * 0 for m, s in pictures])


@dataclass(frozen=True, slots=True)
class Excite(StepPatch, AttentionPatch):
    """Before the first steps x ← x − α·∇L, and at some of them again and again until L ≤ 1 − threshold (alg. 1)."""

    words: tuple[str, ...]
    rate: float
    until: int
    thresholds: tuple[tuple[int, float], ...]
    most: int
    cells: int
    sharpness: float = 100.0

    def begin(self, run: Run) -> Any:
        """A state with the session's net. Raises ValueError where no map has the size."""
        scales = sorted({site.scale for site in run.sites if site.cross})
        if self.cells not in scales:
            raise ValueError(f"cells: one of {', '.join(map(str, scales))} is wanted by this model, {self.cells} given")
        return _Exciting(self, run.net, Watch(lambda site: site.scale == self.cells))


@dataclass(slots=True, eq=False)
class _Exciting(StepPatch, AttentionPatch):
    patch: Excite
    net: Net
    watch: Watch

    def at_site(self, site: Site) -> bool:
        """Where maps are kept, while they are."""
        return self.watch.at_site(site)

    def __call__(self, call: AttnCall, next: Attend) -> Tensor:
        """Attention as it is."""
        return self.watch(call, next)

    def before(self, x: Tensor, step: Step) -> Tensor:
        """The state moved towards one in which all words are looked at."""
        wanted = dict(self.patch.thresholds).get(step.index)
        if wanted is None and step.index >= self.patch.until:
            return x
        subjects, rate = self._subjects(len(x)), self.patch.rate * math.sqrt(1 - 0.5 * step.index / max(step.count - 1, 1))
        with torch.enable_grad():
            loss, by = self._loss(x, step, subjects)
            for _ in range(self.patch.most if wanted is not None else 0):
                again = loss > 1 - (wanted or 0.0)
                if not again.any():
                    break
                x = self._moved(x, loss * again, by, rate, step)
                loss, by = self._loss(x, step, subjects)
            return self._moved(x, loss, by, rate, step) if step.index < self.patch.until else x

    def _loss(self, x: Tensor, step: Step, subjects: list[list[tuple[int, ...]]]) -> tuple[Tensor, Tensor]:
        maps, by = maps_and_state(self.net, self.watch, x, step.sigma)
        if not maps:  # the prompt does not hold at this level
            return by.flatten(1).sum(1) * 0, by
        return losses(maps, subjects, self.patch.sharpness), by

    def _moved(self, x: Tensor, loss: Tensor, by: Tensor, rate: float, step: Step) -> Tensor:
        return descended(x, loss.sum(), by, rate, step.sigma)  # pictures do not meet, so neither do their gradients

    def _subjects(self, batch: int) -> list[list[tuple[int, ...]]]:
        """The token positions of the words in each row's prompt. Raises ValueError for a word that no prompt has."""
        tokens = self.net.branches[BRANCH].entries[0].tokens
        if not tokens:
            raise ValueError("positive: an encoded prompt is wanted, this one does not know which words it was made of")
        for word in self.patch.words:
            if not any(_has(prompt.text, word) for prompt in tokens):
                token_indices(tokens[0], word, name="words")  # says what the prompt has
        rows = [tokens[row % len(tokens)] for row in range(batch)]
        return [[token_indices(prompt, word) for word in self.patch.words if _has(prompt.text, word)] for prompt in rows]


def _has(text: str, phrase: str) -> bool:
    return re.search(r"(?<!\w)" + r"\s+".join(map(re.escape, phrase.split())) + r"(?!\w)", text, re.IGNORECASE) is not None


def parsed(thresholds: str) -> tuple[tuple[int, float], ...]:
    """Pairs of step and threshold from a text as "0: 0.05, 10: 0.5". Raises ValueError where it is no such text."""
    found = []
    for part in filter(None, (part.strip() for part in thresholds.split(","))):
        match = re.fullmatch(r"(\d+)\s*:\s*(0?\.\d+|[01](?:\.\d*)?)", part)
        if match is None or float(match[2]) > 1:
            raise ValueError(f"thresholds: pairs of step and share as in '0: 0.05, 10: 0.5' are wanted, {part!r} given")
        found.append((int(match[1]), float(match[2])))
    return tuple(found)


# node


class AttendAndExcite(Node, category="editing/attention", title="Attend-and-Excite", aliases=("neglected words",)):
    """Let no chosen word of the prompt be neglected: move the noise in the first steps until each is looked at (Chefer et al. 2023)."""

    model: Annotated[Model, Field(description="The denoiser.")]
    words: Annotated[str, Field(description="Words or phrases of the prompt, separated by commas.")]
    rate: Annotated[float, number(0, 1000, 0.1, "Step size α of the gradient descent, which falls to √½ of it; 0 changes nothing.")] = 20.0
    until: Annotated[StepNumber, Field(description="Steps with a gradient: those before this one.")] = 25
    thresholds: Annotated[str, Field(description="Steps that are repeated until every word is looked at as much: 'step: share, …'.")] = (
        "0: 0.05, 10: 0.5, 20: 0.8"
    )
    most: Annotated[int, number(0, 1000, 1, "Repeat such a step at most so many times.")] = 20
    cells: Annotated[int, number(1, 64, 1, "Which maps: those with so many latent cells a side for one of theirs; 4 is 16×16 at 512.")] = 4
    sharpness: Annotated[
        float,
        number(0, 1000, 1, "Of the softmax over words; 100 suits models that mostly look at the prompt's begin, as SD 1.x; 0 takes none."),
    ] = 100.0

    @classmethod
    def check(cls, inputs: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
        if isinstance(inputs.get("thresholds"), str):
            try:
                parsed(inputs["thresholds"])
            except ValueError as problem:
                yield "thresholds", str(problem).removeprefix("thresholds: ")

    def run(self, ctx: Context) -> Model:
        words = tuple(filter(None, (word.strip() for word in self.words.split(","))))
        if not words:
            raise NodeError("words: at least one word of the prompt is wanted, none given")
        patch = Excite(words, self.rate, self.until, parsed(self.thresholds), self.most, self.cells, self.sharpness)
        return self.model.patched(patch) if self.rate else self.model
