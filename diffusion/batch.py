"""From named branches to network batches and back: areas, masks, time ranges, what can share a batch, and the weighted average.

ComfyUI's rules (its samplers' cond handling), restated.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.schedule import Table
from diffusion.values import Area, Cond, Conditioning

Box = tuple[int, int, int, int]  # height, width, y, x in cells
FEATHER = 8  # cells over which an area's inner edges fade
LEAST = 8  # cells that a mask's bounding box measures at least
TINY = 1e-37  # weight of "nothing", so that pixels no entry covers become 0 and not NaN


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One entry of one branch, resolved for pictures of one size."""

    branch: str
    entry: Cond
    box: Box | None  # the part of the picture to evaluate; None for all of it
    mask: Tensor | None  # [n, h, w], the size of the picture
    first: float  # active from this noise level …
    last: float  # … down to this one

    def active(self, sigma: float) -> bool:
        """Whether the entry holds at this noise level."""
        return self.last <= sigma <= self.first

    def crop(self, x: Tensor) -> Tensor:
        """The part of [.., h, w] that this entry sees."""
        if self.box is None:
            return x
        height, width, top, left = self.box
        return x[..., top : top + height, left : left + width]

    def weight(self, batch: int, height: int, width: int, device: torch.device) -> Tensor:
        """How much this entry counts, [1 or batch, 1, h', w'] on its crop of a picture of height × width."""
        if self.mask is not None:
            mask = repeat_to(self.mask, batch).to(device)
            return self.crop(mask).unsqueeze(1) * (self.entry.mask_strength * self.entry.strength)
        if self.box is None:
            return torch.full((1, 1, height, width), self.entry.strength, device=device)
        rows = _fade(self.box[0], self.box[2] > 0, self.box[0] + self.box[2] < height)
        columns = _fade(self.box[1], self.box[3] > 0, self.box[1] + self.box[3] < width)
        return (rows[:, None] * columns[None, :] * self.entry.strength).to(device)[None, None]


def _fade(size: int, at_start: bool, at_end: bool) -> Tensor:
    ramp = min(FEATHER, size // 4)
    weight = torch.ones(size)
    for i in range(ramp):
        if at_start:
            weight[i] *= (i + 1) / ramp
        if at_end:
            weight[size - 1 - i] *= (i + 1) / ramp
    return weight


def repeat_to(x: Tensor, batch: int) -> Tensor:
    """Rows of x repeated in turn, or cut, to a batch."""
    if x.shape[0] == batch:
        return x
    return x.repeat(math.ceil(batch / x.shape[0]), *[1] * (x.ndim - 1))[:batch]


def resolve(branches: Mapping[str, Conditioning], table: Table, height: int, width: int) -> list[Part]:
    """The parts of all branches for pictures of height × width cells, branch by branch.

    An entry with an area gets a counterpart in every branch that has none of that area: the same area and weights with that branch's
    embeddings, so that guidance inside the area compares like with like.
    """
    by_branch = {name: [_part(name, entry, table, height, width) for entry in conditioning] for name, conditioning in branches.items()}
    for name, parts in by_branch.items():
        for part in list(parts):
            for other in by_branch:
                if other != name and part.box is not None:
                    twin = _counterpart(part, part.box, by_branch[other])
                    if twin is not None:
                        by_branch[other].append(replace(twin, branch=other))
    return [replace(part, box=_within(part.box, height, width)) for parts in by_branch.values() for part in parts]


def _part(name: str, entry: Cond, table: Table, height: int, width: int) -> Part:
    mask = entry.mask
    if mask is not None and mask.shape[1:] != (height, width):
        mask = F.interpolate(mask[:, None].float(), (height, width), mode="bilinear")[:, 0]
    box = None if entry.area is None else _box(entry.area, height, width)
    if mask is not None and entry.mask_bounds:
        box = _bounds(mask)
    return Part(name, entry, box, mask, table.percent_to_sigma(entry.start), table.percent_to_sigma(entry.end))


def _within(box: Box | None, height: int, width: int) -> Box | None:
    """What lies in the picture of an area. Counterparts are sought before: of two areas that cover all of it one may be the larger."""
    if box is None:
        return None
    box_height, box_width, top, left = box
    if top >= height or left >= width:
        raise ValueError(f"area of a conditioning: it starts at y {top}, x {left} in cells, outside of the picture of {height} × {width}")
    return min(box_height, height - top), min(box_width, width - left), top, left


def _box(area: Area, height: int, width: int) -> Box:
    if area.relative:
        return max(1, round(area.height * height)), max(1, round(area.width * width)), round(area.y * height), round(area.x * width)
    return int(area.height), int(area.width), int(area.y), int(area.x)


def _bounds(mask: Tensor) -> Box:
    rows, columns = (mask.abs().amax(dim=(0, axis)).nonzero().flatten() for axis in (2, 1))
    if len(rows) == 0:
        return LEAST, LEAST, 0, 0
    top, bottom, left, right = (int(x) for x in (rows[0], rows[-1], columns[0], columns[-1]))
    return max(LEAST, bottom - top + 1), max(LEAST, right - left + 1), top, left


def _counterpart(part: Part, box: Box, others: Sequence[Part]) -> Part | None:
    smallest: Part | None = None
    for other in others:
        if other.box is not None and _inside(box, other.box):
            if smallest is None or smallest.box is None or smallest.box[0] * smallest.box[1] > other.box[0] * other.box[1]:
                smallest = other
        elif other.box is None and smallest is None:
            smallest = other
    if smallest is None or smallest.box == box:
        return None
    theirs = smallest.entry
    told = replace(
        part.entry,
        embeds=theirs.embeds,
        pooled=theirs.pooled,
        tokens=theirs.tokens,
        per_step=theirs.per_step,
        control_embeds=theirs.control_embeds,
        concat=theirs.concat,
        concat_latent=theirs.concat_latent,
        concat_mask=theirs.concat_mask,
        size=theirs.size,
    )
    return replace(part, entry=told)


def _inside(box: Box, other: Box) -> bool:
    return all(box[i + 2] >= other[i + 2] and box[i] + box[i + 2] <= other[i] + other[i + 2] for i in (0, 1))


def group(parts: Iterable[Part], mix_lengths: bool) -> list[list[Part]]:
    """Parts that can share one network batch: equal crops, patches and further inputs; parts keep their order.

    `mix_lengths`: token axes of different length may share, too, where repeating them up to four times makes them equal (attention does not
    notice repeated keys; patches that look at its columns would).
    """
    groups: list[list[Part]] = []
    for part in parts:
        for members in groups:
            if _fits(part, members, mix_lengths):
                members.append(part)
                break
        else:
            groups.append([part])
    return groups


def _fits(part: Part, members: Sequence[Part], mix_lengths: bool) -> bool:
    a, b = part, members[0]
    if (a.box and a.box[:2]) != (b.box and b.box[:2]) or a.entry.embeds.shape[2] != b.entry.embeds.shape[2]:
        return False
    if len(a.entry.patches) != len(b.entry.patches) or any(p is not q for p, q in zip(a.entry.patches, b.entry.patches, strict=True)):
        return False
    lengths = [p.entry.embeds.shape[1] for p in (part, *members)]
    return len(set(lengths)) == 1 or (mix_lengths and math.lcm(*lengths) // min(lengths) <= 4)


def contexts(embeds: Sequence[Tensor], batch: int, device: torch.device) -> Tensor:
    """The embeddings of parts that share a batch, [parts · batch, n, d]."""
    rows = [repeat_to(e, batch).to(device) for e in embeds]
    length = math.lcm(*(e.shape[1] for e in rows))
    return torch.cat([e.repeat(1, length // e.shape[1], 1) for e in rows])


def control_contexts(parts: Sequence[Part], batch: int, step: int, device: torch.device) -> Tensor | None:
    """As `contexts`, what control networks read; None where no entry has a text for them alone."""
    if all(part.entry.control_embeds is None for part in parts):
        return None
    own = [part.entry.control_embeds for part in parts]
    return contexts([embeds(part.entry, step) if text is None else text for part, text in zip(parts, own, strict=True)], batch, device)


def embeds(entry: Cond, step: int) -> Tensor:
    """An entry's embeddings, [1 or batch, n, d], in a step (first 0) of a run; ValueError where it has no embeddings for that one."""
    if entry.per_step is None or step < 0:
        return entry.embeds
    if step >= len(entry.per_step):
        raise ValueError(
            f"conditioning with embeddings for {len(entry.per_step)} steps: step {step + 1} is wanted; sample with as many steps"
        )
    return entry.per_step[step]


def average(parts: Sequence[Part], outputs: Sequence[Tensor], like: Tensor) -> Tensor:
    """Σ weight·output / Σ weight per cell, [b, c, h, w]; 0 where nothing counts."""
    batch, _, height, width = like.shape
    sum, count = torch.zeros_like(like), torch.full_like(like, TINY)
    for part, output in zip(parts, outputs, strict=True):
        weight = part.weight(batch, height, width, like.device)
        part.crop(sum).add_(output * weight)
        part.crop(count).add_(weight)
    return sum / count
