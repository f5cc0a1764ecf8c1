"""Self-attention guidance (Hong et al. 2023): away from a prediction of the picture blurred where the network looked most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.batch import repeat_to
from diffusion.patch import Attend, AttentionPatch, AttnCall, Combine, GuidancePatch, GuideCall, Run, Site
from diffusion.values import Conditioning, Model
from graph_engine.node import Node
from nodes.params import number

if TYPE_CHECKING:
    from graph_engine.context import Context

KERNEL = 9  # cells a side
THRESHOLD = 1.0  # attention received, in units of what each place would get if all got the same


def blurred(x: Tensor, sigma: float) -> Tensor:
    """x [b, c, h, w] under a Gaussian of KERNEL cells, mirrored at the border; sigma 0 leaves it as it is."""
    if sigma == 0:
        return x
    reach = KERNEL // 2
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype) / sigma) ** 2)
    line = line / line.sum()
    kernel = (line[:, None] * line).expand(x.shape[1], 1, -1, -1)
    return F.conv2d(F.pad(x, (reach,) * 4, mode="reflect"), kernel, groups=x.shape[1])


def looked_at(received: Tensor, size: tuple[int, int], height: int, width: int) -> Tensor:
    """Where places receive more attention than the threshold [b, 1, height, width], from sums [b, keys] over a map of `size` (eq. 9)."""
    mask = (received > THRESHOLD).float().reshape(-1, 1, *size)
    return F.interpolate(mask, (height, width))


@dataclass(frozen=True, slots=True, eq=False)
class SelfAttention(GuidancePatch, AttentionPatch):
    """Blurs the unconditional prediction where its first middle self-attention looked, and guides away from what that leads to."""

    scale: float
    sigma: float

    def begin(self, run: Run) -> Any:
        """A state that remembers the attention map of the present step."""
        first = next((site.name for site in run.sites if site.place == "mid" and not site.cross), None)
        if first is None:
            raise ValueError("self-attention guidance: the model has no self-attention in its middle block")
        return Remembering(self, first)


@dataclass(slots=True, eq=False)
class Remembering(GuidancePatch, AttentionPatch):
    """The patch during one session."""

    guide: SelfAttention
    site: str
    negative: Conditioning | None = field(default=None)
    received: Tensor | None = field(default=None)  # [b, keys]
    size: tuple[int, int] = field(default=(0, 0))

    def branches(self, branches: Mapping[str, Conditioning]) -> Mapping[str, Conditioning]:
        """As given; the negative is asked once more in every step."""
        self.negative = branches.get("negative")
        return branches

    def needs(self) -> frozenset[str]:
        """The negative prediction."""
        return frozenset({"negative"})

    def at_site(self, site: Site) -> bool:
        """The first self-attention of the middle block."""
        return site.name == self.site

    def __call__(self, call: AttnCall, next: Attend) -> Tensor:
        """Attention as it is; what each key received of the negative rows is remembered."""
        if "negative" in call.rows:
            first = call.rows["negative"].start
            probs = call.probs()[first : first + call.rows.batch]
            self.received, self.size = probs.float().mean(1).sum(1), call.site.size
        return next(call)

    def combine(self, call: GuideCall, next: Combine) -> Tensor:
        """The guided D + scale·(blurred D_negative − D of the blurred picture, noised as x is) (alg. 1)."""
        guided, received = next(call), self.received
        self.received = None
        negative = call.preds.get("negative")
        height, width = call.x.shape[2:]
        if negative is None or self.negative is None or received is None or min(height, width) <= KERNEL // 2:
            return guided
        if received.shape[1] != self.size[0] * self.size[1]:
            raise ValueError(
                "self-attention guidance: the middle block works at another size than the latent asks for, as with a downscale patch"
            )
        mask = looked_at(repeat_to(received, len(negative)), self.size, height, width).to(negative)
        degraded = blurred(negative, self.guide.sigma) * mask + negative * (1 - mask)
        away = call.predict(self.negative, degraded + call.x - negative)
        return guided + (degraded - away) * self.guide.scale


# node


class SelfAttentionGuidance(Node, category="model_patches/unet", title="Self-Attention Guidance", aliases=("sag", "quality")):
    """Guide away from a prediction blurred where the network looks most (Hong et al. 2023); one evaluation more a step."""

    model: Model
    scale: Annotated[float, number(-2, 5, 0.01, "How far; 0 turns it off.")] = 0.5
    blur_sigma: Annotated[float, number(0, 10, 0.1, "Width of the blur in latent cells.")] = 2.0

    def run(self, ctx: Context) -> Model:
        return self.model.patched(SelfAttention(self.scale, self.blur_sigma)) if self.scale else self.model
