"""pix2pix-zero (Parmar et al. 2023): the prompt moves along a direction between sets of sentences, a gradient holds the layout."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from diffusion.memory import TorchDevice
from diffusion.pair import Pinned, source_and_targets
from diffusion.patch import Attend, AttentionPatch, AttnCall, Run, Site, StepPatch
from diffusion.schedule import Step
from diffusion.session import Net
from diffusion.text import encode
from diffusion.values import Clip, Cond, Conditioning, Model, Trajectory
from diffusion.watch import Watch, descended, maps_and_state
from graph_engine.errors import NodeError
from graph_engine.node import Node
from nodes.params import Text, Unit, number

if TYPE_CHECKING:
    from graph_engine.context import Context


def centre(clip: Clip, sentences: list[str], device: TorchDevice) -> tuple[Tensor, Tensor | None]:
    """The mean embedding and the mean pooled vector of sentences. Raises NodeError for sentences of different token lengths."""
    entries = [encode(clip, sentence, device).entries[0] for sentence in sentences]
    if len({entry.embeds.shape for entry in entries}) != 1:
        raise NodeError("sentences: all of one chunk of tokens are wanted, some are longer")
    pooled = [entry.pooled for entry in entries if entry.pooled is not None]
    return torch.stack([entry.embeds for entry in entries]).mean(0), torch.stack(pooled).mean(0) if pooled else None


def moved(conditioning: Conditioning, to: tuple[Tensor, Tensor | None], frm: tuple[Tensor, Tensor | None], by: float) -> Conditioning:
    """c + by·Δc with Δc = mean(target sentences) − mean(source sentences) (sec. 3.2)."""

    def one(entry: Cond) -> Cond:
        length = entry.embeds.shape[1]
        if length % to[0].shape[1] or to[0].shape != frm[0].shape:
            raise NodeError(f"sentences: {length} tokens as in conditioning are wanted, {frm[0].shape[1]} and {to[0].shape[1]} given")
        delta = (to[0] - frm[0]).repeat(1, length // to[0].shape[1], 1)
        pooled = entry.pooled
        if pooled is not None and to[1] is not None and frm[1] is not None:
            pooled = pooled + by * (to[1] - frm[1])
        return replace(entry, embeds=entry.embeds + by * delta, pooled=pooled)

    return Conditioning(tuple(one(entry) for entry in conditioning))


@dataclass(frozen=True, slots=True)
class CrossGuidance(StepPatch, AttentionPatch):
    """Before a step x ← x − λ·∇Σ‖M_target − M_source‖², M the cross-attention maps of all layers (alg. 1, lines 9-11).

    The sum is over queries and words, the mean over heads; of the positive branch, where the authors' code takes the empty prompt's maps
    along and so halves the gradient.
    """

    amount: float
    until: float

    def begin(self, run: Run) -> Any:
        """A state with the session's net."""
        return _Guiding(self, run.net, Watch(lambda site: True))


@dataclass(slots=True, eq=False)
class _Guiding(StepPatch, AttentionPatch):
    patch: CrossGuidance
    net: Net
    watch: Watch

    def at_site(self, site: Site) -> bool:
        """Where maps are kept, while they are."""
        return self.watch.at_site(site)

    def __call__(self, call: AttnCall, next: Attend) -> Tensor:
        """Attention as it is."""
        return self.watch(call, next)

    def before(self, x: Tensor, step: Step) -> Tensor:
        """The targets moved towards where they are looked at as the source is."""
        if step.index >= round(self.patch.until * step.count):
            return x
        source, targets = source_and_targets(self.net.samples, len(x))
        with torch.enable_grad():
            maps, by = maps_and_state(self.net, self.watch, x, step.sigma)
            if not maps:  # the prompt does not hold at this level
                return x
            apart = [(probs[list(targets)] - probs[source].detach()).square().sum((2, 3)).mean(1).sum() for _, probs in maps]
            guided = descended(x, torch.stack(apart).sum(), by, self.patch.amount, step.sigma)
        out = x.clone()
        out[list(targets)] = guided[list(targets)]
        return out


# nodes


class EditDirection(Node, category="editing/attention", title="Edit Direction", aliases=("pix2pix-zero", "prompt arithmetic")):
    """Move a prompt's embedding from what one set of sentences has in common to what another has (Parmar et al. 2023, sec. 3.2)."""

    conditioning: Annotated[Conditioning, Field(description="The prompt to move, such as the source's.")]
    clip: Annotated[Clip, Field(description="The text encoder that made it.")]
    source: Annotated[Text, Field(description="Sentences of what is to go, one a line.")]
    target: Annotated[Text, Field(description="Sentences of what is to come, one a line.")]
    strength: Annotated[float, number(-10, 10, 0.05, "How far; 1 is the whole way, 0 leaves the prompt as it is.")] = 1.0

    def run(self, ctx: Context) -> Conditioning:
        sets = []
        for name, text in (("source", self.source), ("target", self.target)):
            sentences = [line.strip() for line in text.splitlines() if line.strip()]
            if not sentences:
                raise NodeError(f"{name}: at least one sentence is wanted, none given")
            sets.append(centre(self.clip, sentences, ctx.device))
        return moved(self.conditioning, sets[1], sets[0], self.strength) if self.strength else self.conditioning


class CrossAttentionGuidance(Node, category="editing/attention", title="Cross-Attention Guidance", aliases=("pix2pix-zero",)):
    """Hold pictures to where a source beside them in the batch is looked at for each word (Parmar et al. 2023, sec. 3.3)."""

    model: Annotated[Model, Field(description="Sample it on a batch of source and target (SourceAndTarget).")]
    amount: Annotated[float, number(0, 100, 0.01, "λ: step size of the gradient descent; 0 changes nothing.")] = 0.1
    until: Annotated[Unit, Field(description="For this share of the steps.")] = 1.0
    trajectory: Annotated[Trajectory | None, Field(description="A real picture's way into noise: the source keeps to it.")] = None

    def run(self, ctx: Context) -> Model:
        model = self.model.patched(CrossGuidance(self.amount, self.until)) if self.amount else self.model
        # outermost, so that the gradient is taken where the source has been put
        return model if self.trajectory is None else model.patched(Pinned(self.trajectory))
