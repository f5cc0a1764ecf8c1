"""Adapters merged into one: exactly, by laying their factors side by side, or to a given rank, by the singular value decomposition.

Averaging the factors themselves would bring in the cross terms B₁A₂ and B₂A₁.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diffusion.lora.adapter import AdapterModule, Lora

_SUMMED = ("diff", "diff_b", "w_norm", "b_norm")
_LOW_RANK = {"up", "down", "mid"}
_LINEAR = ("hada_w1_a", "lokr_w1", "lokr_w1_a")  # the delta is linear in this factor


def merge_sum(loras: Sequence[tuple[Lora, float]], name: str = "merged") -> Lora:
    """The adapter whose delta is Σ weight·delta: factors [up₁ up₂] and [down₁; down₂], of the summed rank.

    Raises ValueError naming the key for kinds that do not add up this way (DoRA, set_weight; LoHa and LoKr met by another adapter).
    """
    groups: dict[tuple[str, str], list[tuple[AdapterModule, float]]] = {}
    for lora, weight in loras:
        for module in lora.modules:
            groups.setdefault((module.part, module.path), []).append((module, weight))
    return Lora(name, tuple(_stack(group) for group in groups.values()))


def truncate(lora: Lora, rank: int, name: str | None = None) -> Lora:
    """The adapter with every low-rank delta replaced by the nearest of at most this rank (Eckart and Young); nothing else is changed."""
    if rank < 1:
        raise ValueError(f"rank: at least 1 is wanted, {rank} given")
    return Lora(name or lora.name, tuple(_nearest(module, rank) for module in lora.modules), lora.ignored)


def low_rank(delta: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factors up [out, r] and down [r, in], or [out, r, 1, 1] and [r, in, k, k], of the nearest matrix of at most this rank."""
    flat = delta.float().flatten(1)
    u, s, vh = torch.linalg.svd(flat, full_matrices=False)
    return _factors(u, s, vh, min(rank, len(s)), delta.shape[1:])


def _stack(group: list[tuple[AdapterModule, float]]) -> AdapterModule:
    first = group[0][0]
    tensors: dict[str, Tensor] = {}
    ups, downs = [], []
    for module, weight in group:
        fields = dict(module.tensors)
        for field in _SUMMED:
            if field in fields:
                diff = fields.pop(field).float() * weight
                tensors[field] = tensors[field] + diff.reshape(tensors[field].shape) if field in tensors else diff
        if not fields:
            continue
        if fields.keys() <= _LOW_RANK:
            up, down = plain_factors(module)
            ups.append(up * weight)
            downs.append(down)
        elif len(group) == 1 and "set_weight" not in fields and "dora_scale" not in fields:
            linear = next(field for field in _LINEAR if field in fields)
            tensors.update({field: tensor * weight if field == linear else tensor for field, tensor in fields.items()})
            return AdapterModule(module.part, module.path, module.key, tuple(tensors.items()), module.alpha)
        else:
            raise ValueError(
                f"LoRA merge: {module.key} has {', '.join(sorted(fields))}, which cannot be merged exactly; LoRA factors are wanted"
            )
    if not ups:
        return AdapterModule(first.part, first.path, first.key, tuple(tensors.items()))
    if any(down.shape[1:].numel() != downs[0].shape[1:].numel() or len(up) != len(ups[0]) for up, down in zip(ups, downs, strict=True)):
        raise ValueError(f"LoRA merge: {first.key} has another shape in each of the adapters; are they for the same model?")
    size = max((down.shape[1:] for down in downs), key=len)  # a linear layer and a 1 × 1 convolution are the same thing
    tensors["up"] = torch.cat([up.flatten(1) for up in ups], dim=1)
    tensors["down"] = torch.cat([down.reshape(len(down), *size) for down in downs])
    tensors["up"] = tensors["up"].reshape(*tensors["up"].shape, *(1 for _ in size[1:]))
    return AdapterModule(first.part, first.path, first.key, tuple(tensors.items()), float(len(tensors["down"])))


def plain_factors(module: AdapterModule) -> tuple[Tensor, Tensor]:
    """up [out, r, …] times alpha / rank, and down [r, in, …], of a LoRA module in float32; a Tucker core is drawn into down.

    Raises ValueError naming the key where a factor is missing.
    """
    fields = {field: tensor.float() for field, tensor in module.tensors}
    if not {"up", "down"} <= fields.keys():
        raise ValueError(f"{module.key}: lora_up and lora_down are wanted, only {', '.join(sorted(fields))} given")
    up, down = fields["up"], fields["down"]
    if module.alpha is not None:
        up = up * (module.alpha / len(down))
    if "mid" in fields:
        down = torch.einsum("rs...,si->ri...", fields["mid"], down.flatten(1))
    return up, down


def _nearest(module: AdapterModule, rank: int) -> AdapterModule:
    fields = dict(module.tensors)
    if "up" not in fields or "dora_scale" in fields:
        return module
    up, down = plain_factors(module)
    # the SVD of the product through that of the small R₁·R₂ᵀ: up = Q₁R₁, downᵀ = Q₂R₂
    q1, r1 = torch.linalg.qr(up.flatten(1))
    q2, r2 = torch.linalg.qr(down.flatten(1).T)
    u, s, vh = torch.linalg.svd(r1 @ r2.T, full_matrices=False)
    kept = min(rank, len(s))
    fields.pop("mid", None)
    fields["up"], fields["down"] = _factors(q1 @ u, s, vh @ q2.T, kept, down.shape[1:])
    return AdapterModule(module.part, module.path, module.key, tuple(fields.items()), float(kept))


def _factors(u: Tensor, s: Tensor, vh: Tensor, rank: int, inner: Sequence[int]) -> tuple[Tensor, Tensor]:
    root = s[:rank].sqrt()
    up, down = u[:, :rank] * root, root[:, None] * vh[:rank]
    return up.reshape(*up.shape, *(1 for _ in inner[1:])).contiguous(), down.reshape(rank, *inner).contiguous()
