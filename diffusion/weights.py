"""Deltas onto parameters: W' = W + Σ strength·Δ. They add up in any order, bit for bit, and leave no trace when undone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffusion.patch import Patch, WeightPatch


@dataclass(frozen=True, slots=True, eq=False)
class FullDelta:
    """strength·diff onto one parameter of the same shape."""

    name: str  # path of the parameter in the module, as in "mid_block.attentions.0.proj_in.weight"
    diff: Tensor
    strength: float = 1.0

    def tensors(self) -> tuple[Tensor, ...]:
        """The stored numbers."""
        return (self.diff,)

    def compute(self, shape: torch.Size, device: torch.device) -> Tensor:
        """The delta in float32; raises ValueError where it does not fit."""
        if self.diff.shape != shape:
            raise ValueError(f"delta onto {self.name}: shape {tuple(shape)} is wanted, {tuple(self.diff.shape)} given")
        return self.diff.to(device, torch.float32) * self.strength


@dataclass(frozen=True, slots=True, eq=False)
class LowRankDelta:
    """strength·(alpha / rank)·up·down onto a linear or convolution weight (Hu et al. 2021); without alpha the factor is strength alone.

    Convolutions: down [r, in, k, k] and up [out, r, 1, 1]; with `mid` [r, r, k, k] both are 1 × 1 (the Tucker form of LoCon).
    """

    name: str
    up: Tensor  # [out, r] or [out, r, 1, 1]
    down: Tensor  # [r, in] or [r, in, k, k]
    alpha: float | None = None
    strength: float = 1.0
    mid: Tensor | None = None

    def tensors(self) -> tuple[Tensor, ...]:
        """The stored numbers."""
        return (self.up, self.down) if self.mid is None else (self.up, self.down, self.mid)

    def compute(self, shape: torch.Size, device: torch.device) -> Tensor:
        """The delta in float32; raises ValueError where it does not fit."""
        up, down = (t.to(device, torch.float32).flatten(1) for t in (self.up, self.down))
        rank = down.shape[0]
        factor = self.strength * (1.0 if self.alpha is None else self.alpha / rank)
        if self.mid is None:
            product = up @ down if up.shape[1] == rank else None
        else:
            mid = self.mid.to(device, torch.float32)
            product = torch.einsum("or,rs...,si->oi...", up, mid, down) if up.shape[1] == mid.shape[0] and mid.shape[1] == rank else None
        if product is None or product.numel() != shape.numel():
            given = ", ".join(f"{tuple(t.shape)}" for t in self.tensors())
            raise ValueError(f"low-rank delta onto {self.name}: factors for shape {tuple(shape)} are wanted, {given} given")
        return product.reshape(shape) * factor


Delta = FullDelta | LowRankDelta


def deltas_of(patches: Iterable[Patch]) -> tuple[Delta, ...]:
    """All deltas of the patches that speak at the weights seam."""
    return tuple(delta for patch in patches if isinstance(patch, WeightPatch) for delta in patch.deltas())


@contextmanager
def applied(module: nn.Module, deltas: Iterable[Delta]) -> Iterator[None]:
    """The module with the deltas on its parameters. The original tensors come back on exit, not copies of them.

    Sums run in float32 and are cast once. Raises KeyError for a parameter that the module does not have.
    """
    by_name: dict[str, list[Delta]] = {}
    for delta in deltas:
        if delta.strength != 0:
            by_name.setdefault(delta.name, []).append(delta)
    parameters: Mapping[str, nn.Parameter] = dict(module.named_parameters()) if by_name else {}
    missing = sorted(by_name.keys() - parameters.keys())
    if missing:
        raise KeyError(f"deltas name {len(missing)} parameters that {type(module).__name__} does not have: {', '.join(missing[:5])}")
    originals: list[tuple[nn.Parameter, Tensor]] = []
    try:
        for name, several in by_name.items():
            parameter = parameters[name]
            original = parameter.data
            total = _sum(several, original)
            originals.append((parameter, original))
            parameter.data = (original.float() + total).to(original.dtype)
        yield
    finally:
        for parameter, original in originals:
            parameter.data = original


def _sum(deltas: list[Delta], like: Tensor) -> Tensor:
    # Float addition commutes but does not associate: from three summands on the order is fixed by the content.
    if len(deltas) > 2:
        deltas = sorted(deltas, key=_digest)
    total = deltas[0].compute(like.shape, like.device)
    for delta in deltas[1:]:
        total = total + delta.compute(like.shape, like.device)
    return total


def _digest(delta: Delta) -> bytes:
    digest = hashlib.blake2b(repr((delta.strength, getattr(delta, "alpha", None))).encode())
    for tensor in delta.tensors():
        digest.update(repr(tuple(tensor.shape)).encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.digest()
