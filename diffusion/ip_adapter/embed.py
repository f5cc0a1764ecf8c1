"""From pictures to an adapter's tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffusion.ip_adapter.value import ImageEmbeds, IPAdapter
from diffusion.memory import TorchDevice
from diffusion.vision import ClipVision, ClipVisionOutput, look, look_at_nothing

COMBINATIONS = ("concat", "add", "subtract", "average", "norm average")
EXTREMES = ("max", "min")


def combined(embeds: Tensor, how: str) -> Tensor:
    """What several pictures say, [b, …], as that of one, [1, …]; "concat" keeps them apart, so that the network sees the tokens of all.

    subtract: the first without the mean of the others; norm average: the mean after each number was divided by its norm over the pictures.
    """
    if how == "concat" or len(embeds) == 1:
        return embeds
    if how == "add":
        return embeds.sum(0, keepdim=True)
    if how in EXTREMES:
        return embeds.amax(0, keepdim=True) if how == "max" else embeds.amin(0, keepdim=True)
    if how == "subtract":
        return embeds[:1] - embeds[1:].mean(0, keepdim=True)
    if how == "norm average":
        embeds = embeds / embeds.norm(dim=0, keepdim=True).clamp(min=1e-12)
    return embeds.mean(0, keepdim=True)


def tokens(adapter: IPAdapter, embeds: Tensor, device: TorchDevice) -> Tensor:
    """An adapter's tokens [1, n, d], in float32 on the host, of what it reads of pictures, [b, …]; those of several pictures in a row."""
    with device.weights(adapter.weights) as module, torch.no_grad():
        dtype = next(module.parameters()).dtype
        made: Tensor = module.image_proj(embeds.to(device.torch, dtype))  # type: ignore[operator]  # an Adapter
    return made.float().cpu().flatten(0, 1)[None]


def read(adapter: IPAdapter, seen: ClipVisionOutput | ImageEmbeds) -> Tensor:
    """What an adapter reads of an encoder's output. Raises ValueError where the encoder is not the one that it was trained with."""
    if isinstance(seen, ImageEmbeds):
        embeds = seen.values
    else:
        embeds = seen.embeds if adapter.kind == "plain" else seen.penultimate
    if embeds.ndim != (2 if adapter.kind == "plain" else 3):
        raise ValueError("pos_embed, neg_embed: these were made for another kind of IP-Adapter; encode with the one that they are for")
    if embeds.shape[-1] != adapter.reads:
        raise ValueError(
            f"clip_vision: this IP-Adapter reads {'embeddings' if adapter.kind == 'plain' else 'states'} of width {adapter.reads}, "
            f"the encoder gives {embeds.shape[-1]}; {_wanted(adapter)} is wanted"
        )
    return embeds


def _wanted(adapter: IPAdapter) -> str:
    known = {("plain", 768): "ViT-L/14", ("plain", 1024): "ViT-H/14", ("plain", 1280): "ViT-bigG/14"}
    states = {1024: "ViT-L/14", 1280: "ViT-H/14", 1664: "ViT-bigG/14"}
    name = known.get(("plain", adapter.reads)) if adapter.kind == "plain" else states.get(adapter.reads)
    return "another encoder" if name is None else f"the picture encoder of {name}"


def nothing(adapter: IPAdapter, vision: ClipVision | None, device: TorchDevice) -> Tensor:
    """What an adapter reads where there is no picture, [1, …].

    As in training (Ye et al. 2023, sec. 3.2.2) a zero embedding, or the states of a picture of zeros after normalisation, for which alone
    the encoder is needed; ValueError where it is not given.
    """
    if adapter.kind == "plain":
        return torch.zeros(1, adapter.reads)
    if vision is None:
        raise ValueError("clip_vision: an encoder is wanted, none given; connect Load CLIP Vision, or a neg_embed")
    return read(adapter, look_at_nothing(vision, device))


def prompts(
    adapter: IPAdapter,
    vision: ClipVision,
    pictures: Tensor,
    against: Tensor | None,
    how: str,
    device: TorchDevice,
    heard: Callable[[], Any] = lambda: None,
) -> tuple[Tensor, Tensor]:
    """Tokens [1, n, d] of pictures [b, h, w, 3] for the positive, and for the negative those of `against`, or of no picture at all."""
    positive = combined(read(adapter, look(vision, pictures, device, heard=heard)), how)
    if against is None:
        negative = nothing(adapter, vision, device)
    else:
        negative = combined(read(adapter, look(vision, against, device, heard=heard)), how)
    return tokens(adapter, positive, device), tokens(adapter, negative, device)
