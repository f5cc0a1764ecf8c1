"""An adapter tied to networks: a weight patch for the denoiser, one for the text encoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from diffusion.lora.adapter import Lora, changes
from diffusion.lora.names import shapes_of, table
from diffusion.memory import TorchDevice
from diffusion.patch import WeightPatch
from diffusion.values import Clip, Model
from diffusion.weights import Change, Delta, FullDelta, Item


@dataclass(frozen=True, slots=True, eq=False)
class LoraPatch(WeightPatch):
    """An adapter's changes of one network, at a strength."""

    name: str
    items: tuple[Any, ...]  # deltas and changes at strength 1
    strength: float

    def deltas(self) -> tuple[Item, ...]:
        """The changes at this strength."""
        return tuple(replace(item, strength=self.strength) for item in self.items)


@dataclass(frozen=True, slots=True)
class Fit:
    """How an adapter fits networks: how many of its modules, and the names of those that none of them has."""

    name: str
    matched: int
    total: int
    unmatched: tuple[str, ...]

    def note(self) -> str | None:
        """What to tell when something was left out."""
        if not self.unmatched:
            return None
        more = f" and {len(self.unmatched) - 10} more" if len(self.unmatched) > 10 else ""
        return (
            f"LoRA {self.name}: {self.matched} of {self.total} modules matched; not in this model: {', '.join(self.unmatched[:10])}{more}"
        )


def apply_lora(
    lora: Lora, model: Model | None, clip: Clip | None, strength_model: float, strength_clip: float, device: TorchDevice
) -> tuple[Model | None, Clip | None, Fit]:
    """The model and text encoder with the adapter as a weight patch, and how it fits.

    A strength of 0 leaves its network as it is. Modules for a network that is not given do not count as unmatched. Raises ValueError
    when nothing matches, and when a module has another shape than the network's.
    """
    refs = {"unet": None if model is None else model.weights, "text": None if clip is None else clip.weights}
    items: dict[str, list[Delta | Change]] = {"unet": [], "text": []}
    left: dict[int, list[str]] = {i: [] for i in range(len(lora.modules))}  # what of each module has found no place yet
    concerned = set()
    for part, ref in refs.items():
        if ref is None:
            continue
        shapes = shapes_of(ref, device)
        names = table(part, shapes)
        for i, module in enumerate(lora.modules):
            if module.part and (module.part == "unet") != (part == "unet"):
                continue
            concerned.add(i)
            target = names.get((module.part or ("unet" if part == "unet" else "te1"), module.path))
            if target is None:
                continue
            for field, change in changes(module, target):
                if change.name in shapes:
                    items[part].append(_checked(lora.name, module.key, change, shapes))
                    left[i].append("")
                else:
                    left[i].append(f"{module.key}.{field}")
    matched = [i for i in sorted(concerned) if "" in left[i]]
    unmatched = [entry for i in sorted(concerned) for entry in (left[i] or [lora.modules[i].key]) if entry]
    fit = Fit(lora.name, len(matched), len(concerned), (*unmatched, *lora.ignored))
    if not matched:
        sample = ", ".join(module.key for module in lora.modules[:5])
        what = " and ".join(name for name, given in (("model", model), ("text encoder", clip)) if given is not None)
        raise ValueError(f"LoRA {lora.name}: none of its {len(lora.modules)} modules is in this {what}; they are called {sample}")
    if model is not None and items["unet"] and strength_model != 0:
        model = model.patched(LoraPatch(lora.name, tuple(items["unet"]), strength_model))
    if clip is not None and items["text"] and strength_clip != 0:
        clip = clip.patched(LoraPatch(lora.name, tuple(items["text"]), strength_clip))
    return model, clip, fit


def _checked(name: str, key: str, change: Delta | Change, shapes: Mapping[str, Sequence[int]]) -> Delta | Change:
    shape = torch.Size(shapes[change.name])
    if isinstance(change, FullDelta) and change.diff.numel() == shape.numel():
        change = replace(change, diff=change.diff.reshape(shape))  # a linear layer and a 1 × 1 convolution are the same thing
    meta = torch.device("meta")  # shapes only
    try:
        if isinstance(change, Change):
            change.change(torch.empty(shape, device=meta))
        else:
            change.compute(shape, meta)
    except ValueError as problem:
        raise ValueError(f"LoRA {name}: {key} does not fit this model: {problem}") from problem
    return change
