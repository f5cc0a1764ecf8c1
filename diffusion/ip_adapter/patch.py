"""A picture as a prompt: decoupled cross-attention as a patch (Ye et al. 2023, eq. 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.batch import repeat_to
from diffusion.call import AttnCall, NetCall, Site
from diffusion.ip_adapter.value import IPAdapter
from diffusion.ip_adapter.weighting import Share, shares
from diffusion.patch import Attend, AttentionPatch, FeaturePatch, Run

AGAINST = ("negative", "empty")  # branches that are told of no picture
SCALINGS = ("V only", "K+V", "K+V w/ C penalty", "K+mean(V) w/ C penalty")
WIDEST = 1280  # the penalty is smaller for narrower layers


@dataclass(frozen=True, slots=True, eq=False)
class ImagePrompt(AttentionPatch):
    """Add attention to a picture's tokens to each attention to the text. Several of them add up."""

    adapter: IPAdapter
    positive: Tensor  # [1, n, d]: tokens for the rows that follow the picture
    negative: Tensor  # [1, m, d]: tokens for the negative rows
    weight: float = 1.0
    kind: str = "linear"  # a weight type
    start: float = 0.0  # active from this part of the noise range …
    end: float = 1.0  # … to this one; 0 is pure noise, 1 is clean
    scaling: str = "V only"  # what the weight multiplies
    mask: Tensor | None = None  # [b or 1, h, w], any size: how much each place is told

    def begin(self, run: Run) -> Any:
        """The adapter's weights on the device, and what each site gives to the picture. Raises ValueError for another kind of model."""
        numbers = key_numbers(run.sites)
        if len(numbers) != self.adapter.sites:
            raise ValueError(
                f"IP-Adapter: it has weights for {self.adapter.sites} cross-attentions, this model has {len(numbers)}; "
                "use an adapter made for this kind of model"
            )
        table = run.net.table
        given = shares(run.sites, self.weight, self.kind, run.net.model.weights.family == "sdxl")
        first, last = table.percent_to_sigma(self.start), table.percent_to_sigma(self.end)
        return Attending(self, run.net.weights(self.adapter.weights), numbers, given, first, last)


def key_numbers(sites: Sequence[Site]) -> dict[int, int]:
    """The numbers that cross-attention sites have in a file, by their index: places among all attentions, down, up, middle."""
    places = ("down", "up", "mid")  # the order in which diffusers' U-Net declares its blocks, which the authors' code counted
    ordered = sorted(sites, key=lambda site: (places.index(site.place), site.index))
    return {site.index: number for number, site in enumerate(ordered) if site.cross}


@dataclass(slots=True, eq=False)
class Attending(AttentionPatch, FeaturePatch):
    """A picture's prompt at work. Its keys and values do not change from step to step, so they are made once for a site."""

    prompt: ImagePrompt
    module: Any
    numbers: dict[int, int]
    given: dict[int, Share]
    first: float  # active from this noise level …
    last: float  # … down to this one
    made: dict[tuple[int, bool], tuple[Tensor, Tensor]] = field(default_factory=dict)
    boxes: tuple[tuple[int, int, int, int] | None, ...] = ()
    full: tuple[int, int] = (0, 0)

    def at_site(self, site: Site) -> bool:
        """Attention to the text, where the picture has a weight."""
        return site.index in self.given

    def residuals(self, call: NetCall) -> None:
        """Nothing to add; but where the rows lie in the picture is known only here."""
        self.boxes, self.full = call.boxes, call.full

    def __call__(self, call: AttnCall, next: Attend) -> Tensor:
        """softmax(q kᵀ) v + weight · softmax(q k'ᵀ) v' (eq. 5), with tokens for the negative rows of their own."""
        out = next(call)
        if not self.last <= call.step.sigma <= self.first:
            return out
        share, whole = self.given[call.site.index], self.prompt.scaling == "V only"
        seen = []
        for branch, begin, end in call.rows.branches:
            if share.repels and branch not in AGAINST:  # v' would be zero
                seen.append(torch.zeros_like(out[begin:end]))
                continue
            k, v = (x.to(call.q).expand(end - begin, -1, -1, -1) for x in self._keys_values(call, branch in AGAINST and not share.repels))
            seen.append(F.scaled_dot_product_attention(call.q[begin:end], k, v, scale=call.scale))
        added = torch.cat(seen) * (share.weight if whole else 1)
        if self.prompt.mask is not None:
            added = added * self._told(self.prompt.mask, call).to(added)
        return out + added

    def _keys_values(self, call: AttnCall, against: bool) -> tuple[Tensor, Tensor]:
        """k' and v' [1, heads, n, d] of this site."""
        key = (call.site.index, against)
        if key not in self.made:
            told = self.prompt.negative if against else self.prompt.positive
            weight = next(self.module.ip_adapter.parameters())
            k, v = self.module.keys_values(self.numbers[call.site.index], told.to(weight))
            heads, width = call.q.shape[1], call.q.shape[1] * call.q.shape[3]
            if k.shape[-1] != width:
                raise ValueError(
                    f"IP-Adapter: its keys for {call.site.name} have width {k.shape[-1]}, the model's {width}; "
                    "use an adapter made for this kind of model"
                )
            k, v = scaled(k, v, self.given[call.site.index].weight, self.prompt.scaling)
            k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (k, v))
            self.made[key] = k, v
        return self.made[key]

    def _told(self, mask: Tensor, call: AttnCall) -> Tensor:
        """How much each query of each row is told, [rows, 1, queries, 1]."""
        height, width = call.site.size
        if height * width != call.q.shape[2]:
            raise ValueError("attn_mask: the attention works at another size than the latent asks for, as with a downscale or tile patch")
        whole = F.interpolate(mask[:, None].float(), self.full, mode="bilinear")
        rows = []
        for box in self.boxes:
            part = whole if box is None else whole[:, :, box[2] : box[2] + box[0], box[3] : box[3] + box[1]]
            rows.append(repeat_to(F.interpolate(part, (height, width), mode="bilinear"), call.rows.batch))
        return torch.cat(rows).flatten(2).transpose(1, 2)[:, None].to(call.q.device)


def scaled(k: Tensor, v: Tensor, weight: float, how: str) -> tuple[Tensor, Tensor]:
    """k' and v' [b, n, width] with the weight in them, unless it is for the output ("V only"); the penalty is width / 1280."""
    if how == "V only":
        return k, v
    if how.endswith("C penalty"):
        weight *= k.shape[-1] / WIDEST
    if how.startswith("K+mean"):
        mean = v.mean(1, keepdim=True)
        return k * weight, v - mean + mean * weight
    return k * weight, v * weight
