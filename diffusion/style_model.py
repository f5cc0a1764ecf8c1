"""Style models of T2I-Adapter (Mou et al. 2023): a picture's style as tokens after those of the text."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from diffusion.memory import TorchDevice
from diffusion.patch import Attend, AttentionPatch, AttnCall, Site
from diffusion.values import Cond, Conditioning, Tokens, WeightsRef
from diffusion.vision import ClipVisionOutput

StrengthType = Literal["multiply", "attn_bias"]


@dataclass(frozen=True, slots=True)
class StyleModel:
    """A network from a picture's states to tokens: a reference to its weights."""

    socket: ClassVar[str] = "STYLE_MODEL"
    weights: WeightsRef
    reads: int  # width of the states that it reads
    text: int  # width of its tokens, the text's
    tokens: int  # how many for a picture


def open_style_model(path: str | Path) -> StyleModel:
    """The style model of a file, of which only names and shapes are read.

    Raises FileNotFoundError when there is no such file, ValueError when it holds none or weights are missing.
    """
    from diffusion.family.style_model import examine  # here, so that a start does not import the model libraries

    source = Path(path).expanduser().resolve()
    if not source.is_file():
        raise FileNotFoundError(f"{source}: a style model is wanted, nothing found")
    adapter = examine(source)
    stat = source.stat()
    digest = hashlib.blake2b(f"{source.name} {stat.st_size} {stat.st_mtime_ns}\n".encode(), digest_size=16).hexdigest()
    _, tokens, reads = adapter.style_embedding.shape
    return StyleModel(WeightsRef("style_model", str(source), "style_model", digest), reads, adapter.proj.shape[1], tokens)


def style_tokens(style: StyleModel, seen: ClipVisionOutput, device: TorchDevice) -> Tensor:
    """Tokens [1, b·n, d] of b pictures one after the other, in float32 on the host. Raises ValueError for another encoder's states."""
    if seen.last.shape[-1] != style.reads:
        raise ValueError(
            f"clip_vision_output: states of width {style.reads} are wanted, {seen.last.shape[-1]} given; "
            "use the picture encoder that the style model was trained with"
        )
    with device.weights(style.weights) as module, torch.no_grad():
        weight = next(module.parameters())
        tokens: Tensor = module(seen.last.to(weight))
    return tokens.float().cpu().flatten(0, 1)[None]


@dataclass(frozen=True, slots=True)
class Heeded(AttentionPatch):
    """Attention's weights of some of the text's tokens, times a factor before they are normalised: log(factor) on the logits."""

    first: int
    end: int
    factor: float

    def at_site(self, site: Site) -> bool:
        """Attention to the text."""
        return site.cross

    def __call__(self, call: AttnCall, next: Attend) -> Tensor:
        """Attention with the factor; 0 hides the tokens."""
        bias = call.q.new_zeros(1, 1, 1, call.k.shape[2])
        bias[..., self.first : self.end] = math.log(self.factor) if self.factor > 0 else -math.inf
        return next(call.add_bias(bias))


def with_style(conditioning: Conditioning, style: Tensor, strength: float = 1.0, how: StrengthType = "multiply") -> Conditioning:
    """The entries with style tokens [1, n, d] after their own.

    multiply: the tokens times the strength; attn_bias: so much more (or less) of the attention for them. Raises ValueError for text of
    another width.
    """
    appended = style * strength if how == "multiply" else style

    def one(entry: Cond) -> Cond:
        if entry.embeds.shape[-1] != style.shape[-1]:
            raise ValueError(
                f"style_model: its tokens have width {style.shape[-1]}, the conditioning's {entry.embeds.shape[-1]}; "
                "use one made for this kind of model"
            )
        length, n = entry.embeds.shape[1], style.shape[1]
        patches = entry.patches if how == "multiply" or strength == 1 else (*entry.patches, Heeded(length, length + n, strength))
        per_step = None if entry.per_step is None else _followed(entry.per_step, appended)
        tokens = tuple(_and_nothing(each, n) for each in entry.tokens)
        return replace(entry, embeds=_followed(entry.embeds, appended), per_step=per_step, tokens=tokens, patches=patches)

    return Conditioning(tuple(one(entry) for entry in conditioning))


def _followed(embeds: Tensor, style: Tensor) -> Tensor:
    """Tokens [.., t, d] and those of the style after them."""
    return torch.cat([embeds, style.to(embeds).expand(*embeds.shape[:-2], -1, -1)], dim=-2)


def _and_nothing(tokens: Tokens, n: int) -> Tokens:
    """Tokens with n more that stand for no word; they have the id of the last, which ends or pads the text."""
    return replace(
        tokens,
        ids=tokens.ids + tokens.ids[-1:] * n,
        spans=tokens.spans + ((-1, -1),) * n,
        words=tokens.words + (-1,) * n,
        weights=tokens.weights + (1.0,) * n,
    )
