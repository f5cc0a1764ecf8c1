"""The five seams at which a technique speaks to a denoiser.

A patch is a frozen dataclass on `Model.patches` that inherits one or more of the five seam classes. It describes; it holds no run-time
state. A session calls `begin` once and from then on speaks to the object that `begin` returned, which dies with the session. Patches
compose as middleware: a later patch wraps an earlier one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from diffusion.call import AttnCall, Block, BlockCall, GuideCall, Moment, NetCall, Residuals, Rows, Site, copy_rows

if TYPE_CHECKING:
    from diffusion.schedule import Step
    from diffusion.session import Net
    from diffusion.values import Conditioning
    from diffusion.weights import Item

__all__ = [
    "Attend",
    "AttentionPatch",
    "AttnCall",
    "Block",
    "BlockCall",
    "Combine",
    "DenoiseAt",
    "FeaturePatch",
    "GuidancePatch",
    "GuideCall",
    "ModulePatch",
    "Moment",
    "NetCall",
    "Patch",
    "Residuals",
    "Rows",
    "Run",
    "RunBlock",
    "Site",
    "StepPatch",
    "WeightPatch",
    "copy_rows",
]


@dataclass(frozen=True, slots=True)
class Run:
    """What a patch may know when its state for one session is made."""

    net: Net
    device: torch.device
    dtype: torch.dtype
    sites: tuple[Site, ...]
    blocks: tuple[Block, ...]
    sigmas: tuple[float, ...]  # the levels that will be visited; empty when not known


Attend = Callable[[AttnCall], Tensor]
RunBlock = Callable[[BlockCall], Tensor]
Combine = Callable[[GuideCall], Tensor]
DenoiseAt = Callable[[Tensor, Moment], Tensor]


class Patch:
    """A change of a denoiser, described. Inherit from the seam classes below, not from this one."""

    __slots__ = ()

    def begin(self, run: Run) -> Any:
        """The object that speaks at the seams during one session: this patch itself when it needs no state."""
        return self


class ModulePatch(Patch):
    """Changes how the network's modules run, not what they compute: compilation. It comes before all seams, wherever it stands."""

    __slots__ = ()

    def installed(self, modules: Sequence[nn.Module]) -> AbstractContextManager[None]:
        """Modules in which no other patch has a say, run another way until the session ends."""
        raise NotImplementedError


class WeightPatch(Patch):
    """Changes parameters, mostly by deltas onto them: LoRA, DreamBooth, Custom Diffusion, merged models."""

    __slots__ = ()

    def deltas(self) -> tuple[Item, ...]:
        """What to add to which parameters; deltas of several patches add up in any order, other changes come in the patches' order."""
        raise NotImplementedError


class AttentionPatch(Patch):
    """Middleware around attention: Prompt-to-Prompt, attention store, IP-Adapter, paint-with-words."""

    __slots__ = ()

    def at_site(self, site: Site) -> bool:
        """Whether this patch wants to see the calls of a site."""
        return True

    def contexts(self, site: Site, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """What keys and values are projected from, [rows, keys, width] each, before the call is made; earlier patches speak first."""
        return key, value

    def __call__(self, call: AttnCall, next: Attend) -> Tensor:
        """The attention output [rows, heads, queries, d] for a call; `next` computes it."""
        raise NotImplementedError


class FeaturePatch(Patch):
    """Taps and injection at named blocks, and residuals of side networks: ControlNet, T2I-Adapter, FreeU, Plug-and-Play, SIGE."""

    __slots__ = ()

    def at_block(self, block: Block) -> bool:
        """Whether this patch wants to see the calls of a block."""
        return False

    def block(self, call: BlockCall, next: RunBlock) -> Tensor:
        """The output of a block; `next` computes it."""
        return next(call)

    def residuals(self, call: NetCall) -> Residuals | None:
        """What to add inside the network for this evaluation; residuals of several patches add up."""
        return None


class GuidancePatch(Patch):
    """Further branches and another way to combine them: perp-neg, rescale, PAG, InstructPix2Pix scales."""

    __slots__ = ()

    def branches(self, branches: Mapping[str, Conditioning]) -> Mapping[str, Conditioning]:
        """The branches to evaluate, given those of the guidance and of the patches before."""
        return branches

    def needs(self) -> frozenset[str]:
        """Branches that must be evaluated even where the guidance alone could do without them."""
        return frozenset()

    def combine(self, call: GuideCall, next: Combine) -> Tensor:
        """The guided D made of the branches' predictions; `next` is what it would be without this patch."""
        return next(call)


class StepPatch(Patch):
    """Edits of the state around a step or around each guided evaluation: masked blend, local blend, stored noises."""

    __slots__ = ()

    def before(self, x: Tensor, step: Step) -> Tensor:
        """The state x (VE form) that the step starts from."""
        return x

    def after(self, x: Tensor, x0: Tensor, step: Step) -> Tensor:
        """The state x (VE form) that the step ends with; x0 is the step's denoised estimate."""
        return x

    def denoise(self, x: Tensor, step: Moment, next: DenoiseAt) -> Tensor:
        """The guided D at x; `next` computes it."""
        return next(x, step)
