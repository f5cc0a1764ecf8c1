"""One step's batch: captions, their tokens and what each token speaks of; a function of the step alone, so that runs resume exactly."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import CLIPTokenizer

from toybox.captions import Caption, caption
from toybox.scenes import sample

BACKGROUND = 2  # the referent index of background words; objects are 0 and 1


@dataclass
class Batch:
    """Everything the loss needs, sizes: b samples, k tokens."""

    latents: Tensor  # (b, 4, 16, 16)
    areas: Tensor  # (b, 3, 16, 16) share of a cell that is object 0, object 1, background
    tokens: Tensor  # (b, k)
    visible: Tensor  # (b, k) bool: tokens that cross-attention may look at
    speaks: Tensor  # (b, 3, k) 1 where token k speaks of that object or the background
    centres: Tensor  # (b, 2, 2) of the objects in the order of their mention, -1..1; nan where there is none
    t: Tensor  # (b,)
    noise: Tensor  # (b, 4, 16, 16)


def batch(data: dict[str, Tensor], tokenizer: CLIPTokenizer, step: int, size: int) -> Batch:
    """Draw samples, say something of each, forget 10 % of the captions, hide padding in about half of the rest."""
    lot = torch.Generator().manual_seed(step)
    n, epoch_steps = len(data["latents"]), max(1, len(data["latents"]) // size)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(step // epoch_steps))
    rows = order[(step % epoch_steps) * size :][:size].tolist()
    scenes = [sample(row) for row in rows]
    said = [caption(scene, step * size + i) for i, scene in enumerate(scenes)]
    forget = (torch.rand(len(rows), generator=lot) < 0.10).tolist()
    said = [Caption("", ()) if f else c for f, c in zip(forget, said, strict=True)]
    encoded = tokenizer(
        [c.text for c in said], padding="max_length", truncation=True, return_tensors="pt", return_offsets_mapping=True
    )  # fmt: skip

    masks = data["masks"][rows].float() / 255
    areas = torch.cat((masks, (1 - masks.sum(1, keepdim=True)).clamp(min=0)), 1)
    tokens, k = encoded.input_ids, encoded.input_ids.shape[1]
    speaks = torch.zeros(len(rows), 3, k)
    hide = torch.rand(len(rows), generator=lot)
    visible = torch.ones(len(rows), k, dtype=torch.bool)
    for i, (scene, c) in enumerate(zip(scenes, said, strict=True)):
        starts = {start: referent for start, _, referent in c.words}
        for j, (start, end) in enumerate(encoded.offset_mapping[i].tolist()):
            referent = starts.get(start) if end > start else None
            if referent is not None:
                speaks[i, BACKGROUND if referent == "background" else referent, j] = 1
        # relations are known to the tokens after the last word only, so pairs see them more often
        if c.words and hide[i] < (0.3 if len(scene.objects) == 2 else 0.5):
            visible[i] = torch.arange(k) <= len(c.words)

    strata = (torch.randperm(size, generator=lot)[: len(rows)] + torch.rand(len(rows), generator=lot)) / size
    return Batch(
        latents=data["latents"][rows].float(),
        areas=areas,
        tokens=tokens,
        visible=visible,
        speaks=speaks,
        centres=_centres(masks, said),
        t=(1000 * strata**0.7).long().clamp(max=999),  # leans to noise, where the layout is decided
        noise=torch.randn(len(rows), 4, 16, 16, generator=lot),
    )


def _centres(masks: Tensor, said: list[Caption]) -> Tensor:
    line = torch.linspace(-1, 1, masks.shape[-1])
    weight = masks.sum((2, 3))
    by_object = torch.stack(((masks.sum(2) * line).sum(2), (masks.sum(3) * line).sum(2)), 2) / weight[..., None].clamp(min=1e-3)
    out = torch.full((len(said), 2, 2), float("nan"))
    for i, c in enumerate(said):
        mentioned = dict.fromkeys(r for _, _, r in c.words if isinstance(r, int))
        for place, referent in enumerate(mentioned):
            if weight[i, referent] > 0:
                out[i, place] = by_object[i, referent]
    return out
