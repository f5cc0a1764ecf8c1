"""Pure functions from conditionings to conditionings: combine, average, concatenate, area, mask, time range, zero."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F

from diffusion.text import join_tokens
from diffusion.values import Area, Cond, Conditioning, Mask


def combine(*conditionings: Conditioning) -> Conditioning:
    """All entries together; each is evaluated on its own and the predictions are averaged by weight."""
    return Conditioning(tuple(entry for conditioning in conditionings for entry in conditioning))


def average(to: Conditioning, frm: Conditioning, strength: float) -> Conditioning:
    """to·strength + frm·(1 − strength) on embeddings and pooled vectors.

    Only the first entry of `frm` counts; it is cut or padded with zeros to the token length of each entry of `to`.
    """
    other = _first(frm)

    def mix(entry: Cond) -> Cond:
        length = entry.embeds.shape[1]
        padding = max(0, length - other.embeds.shape[1])
        fitted = F.pad(other.embeds[:, :length], (0, 0, 0, padding))
        _same_width(entry, other)
        pooled = entry.pooled
        if other.pooled is not None:
            pooled = (other.pooled if pooled is None else pooled) * strength + other.pooled * (1 - strength)
        return replace(entry, embeds=entry.embeds * strength + fitted * (1 - strength), pooled=pooled, per_step=None)

    return Conditioning(tuple(mix(entry) for entry in to))


def concat(to: Conditioning, frm: Conditioning) -> Conditioning:
    """The tokens of the first entry of `frm` after those of every entry of `to`; pooled vectors stay those of `to`."""
    other = _first(frm)

    def append(entry: Cond) -> Cond:
        _same_width(entry, other)
        batch = max(entry.embeds.shape[0], other.embeds.shape[0])
        rows = [e.embeds.expand(batch, -1, -1) for e in (entry, other)]
        known = len(entry.tokens) == len(other.tokens)
        tokens = tuple(join_tokens(a, b) for a, b in zip(entry.tokens, other.tokens, strict=True)) if known else ()
        return replace(entry, embeds=torch.cat(rows, dim=1), tokens=tokens, per_step=None)

    return Conditioning(tuple(append(entry) for entry in to))


def set_area(
    conditioning: Conditioning, height: float, width: float, y: float, x: float, strength: float = 1.0, relative: bool = False
) -> Conditioning:
    """Let the entries hold in a rectangle only: in latent cells, or (`relative`) as fractions of the picture, of at least a cell."""
    if min(height, width, y, x) < 0 or (not relative and 0 in (height, width)):
        raise ValueError(f"area: height and width above 0, y and x from 0 are wanted; {height} × {width} at y {y}, x {x} given")
    return conditioning.map(area=Area(height, width, y, x, relative), strength=strength, mask_bounds=False)


def set_strength(conditioning: Conditioning, strength: float) -> Conditioning:
    """Weigh the entries in the average with others."""
    return conditioning.map(strength=strength)


def set_mask(conditioning: Conditioning, mask: Mask, strength: float = 1.0, bounds: bool = False) -> Conditioning:
    """Let the entries hold where the mask does; `bounds` evaluates only the mask's bounding box."""
    return conditioning.map(mask=mask.values, mask_strength=strength, mask_bounds=bounds)


def set_timestep_range(conditioning: Conditioning, start: float, end: float) -> Conditioning:
    """Let the entries hold from `start` to `end`, as parts of the training timesteps: 0 is pure noise, 1 is clean."""
    for name, value in (("start", start), ("end", end)):
        if not 0 <= value <= 1:
            raise ValueError(f"timestep range: {name} from 0 to 1 is wanted, {value} given")
    return conditioning.map(start=start, end=end)


def zero_out(conditioning: Conditioning) -> Conditioning:
    """Embeddings and pooled vectors of zeros: what many models learned as "no text"."""

    def zero(entry: Cond) -> Cond:
        pooled = None if entry.pooled is None else torch.zeros_like(entry.pooled)
        return replace(entry, embeds=torch.zeros_like(entry.embeds), pooled=pooled, per_step=None)

    return Conditioning(tuple(zero(entry) for entry in conditioning))


def _first(conditioning: Conditioning) -> Cond:
    if not conditioning.entries:
        raise ValueError("conditioning_from: at least one entry is wanted, none given")
    return conditioning.entries[0]


def _same_width(a: Cond, b: Cond) -> None:
    if a.embeds.shape[-1] != b.embeds.shape[-1]:
        raise ValueError(
            f"the conditionings come from different text encoders: width {a.embeds.shape[-1]} and {b.embeds.shape[-1]}; "
            "encode both with one CLIP"
        )
