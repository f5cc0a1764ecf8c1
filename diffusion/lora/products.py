"""Weight deltas that are other products of small factors than LoRA's (LyCORIS, Yeh et al. 2024), and weight-decomposed ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion.weights import Change, Delta


@dataclass(frozen=True, slots=True, eq=False)
class HadamardDelta:
    """strength·(alpha / rank)·(w1_a·w1_b) ⊙ (w2_a·w2_b) (LoHa, Hyeon-Woo et al. 2022); with cores t1, t2 [r, r, k, k] in Tucker form."""

    name: str
    w1_a: Tensor  # [out, r], with a core [r, out]
    w1_b: Tensor  # [r, in·k·k], with a core [r, in]
    w2_a: Tensor
    w2_b: Tensor
    alpha: float | None = None
    strength: float = 1.0
    t1: Tensor | None = None
    t2: Tensor | None = None

    def tensors(self) -> tuple[Tensor, ...]:
        """The stored numbers."""
        return tuple(t for t in (self.w1_a, self.w1_b, self.w2_a, self.w2_b, self.t1, self.t2) if t is not None)

    def compute(self, shape: torch.Size, device: torch.device) -> Tensor:
        """The delta in float32; raises ValueError where it does not fit."""
        factor = self.strength * (1.0 if self.alpha is None else self.alpha / self.w1_b.shape[0])
        try:
            product = _pair(self.w1_a, self.w1_b, self.t1, device) * _pair(self.w2_a, self.w2_b, self.t2, device)
            return product.reshape(shape) * factor
        except RuntimeError as problem:
            raise _misfit("Hadamard delta", self, shape) from problem


@dataclass(frozen=True, slots=True, eq=False)
class KroneckerDelta:
    """strength·scale·(w1 ⊗ w2) (LoKr); each of the two is whole or a product of two factors, w2 also with a Tucker core t2.

    The scale is alpha / rank where there are factors, otherwise 1.
    """

    name: str
    w1: tuple[Tensor, ...]  # (w1,) or (w1_a, w1_b)
    w2: tuple[Tensor, ...]  # (w2,) or (w2_a, w2_b)
    alpha: float | None = None
    strength: float = 1.0
    t2: Tensor | None = None

    def tensors(self) -> tuple[Tensor, ...]:
        """The stored numbers."""
        return (*self.w1, *self.w2, *(() if self.t2 is None else (self.t2,)))

    def compute(self, shape: torch.Size, device: torch.device) -> Tensor:
        """The delta in float32; raises ValueError where it does not fit."""
        rank = self.w2[1].shape[0] if len(self.w2) == 2 else self.w1[1].shape[0] if len(self.w1) == 2 else None
        factor = self.strength * (1.0 if self.alpha is None or rank is None else self.alpha / rank)
        try:
            w1, w2 = _whole(self.w1, None, device), _whole(self.w2, self.t2, device)
            if w2.ndim == 4 and w1.ndim == 2:
                w1 = w1[:, :, None, None]
            return torch.kron(w1, w2.contiguous()).reshape(shape) * factor
        except RuntimeError as problem:
            raise _misfit("Kronecker delta", self, shape) from problem


@dataclass(frozen=True, slots=True, eq=False)
class Decomposed(Change):
    """W' = m ⊙ (W + Δ) / ‖W + Δ‖ (DoRA, Liu et al. 2024, eq. 5), and W + strength·(W' − W).

    The norm is that of each output, or of each input where the magnitude has the shape [1, in, …].
    """

    name: str
    delta: Delta
    magnitude: Tensor  # [out], [out, 1, …] or [1, in, …]
    strength: float = 1.0

    def change(self, weight: Tensor) -> Tensor:
        """The changed weight in float32; raises ValueError where it does not fit."""
        m = self.magnitude.to(weight)
        axis = 0 if m.ndim == 1 or m.shape[0] == weight.shape[0] else 1
        if weight.ndim < 2 or m.numel() != weight.shape[axis]:
            raise ValueError(f"DoRA magnitude for {self.name}: one number for each output or input of {tuple(weight.shape)} is wanted, "
                             f"{tuple(self.magnitude.shape)} given")  # fmt: skip
        whole = weight + self.delta.compute(weight.shape, weight.device)
        others = [i for i in range(weight.ndim) if i != axis]
        shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
        changed = whole * (
            m.reshape(shape) / torch.linalg.vector_norm(whole, dim=others, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        )
        return changed if self.strength == 1 else weight + self.strength * (changed - weight)


def _pair(a: Tensor, b: Tensor, core: Tensor | None, device: torch.device) -> Tensor:
    a, b = a.to(device, torch.float32), b.to(device, torch.float32)
    return a @ b if core is None else torch.einsum("ij...,jr,ip->pr...", core.to(device, torch.float32), b, a)


def _whole(factors: tuple[Tensor, ...], core: Tensor | None, device: torch.device) -> Tensor:
    if len(factors) == 2:
        a, b = factors
        return _pair(a, b if core is not None else b.flatten(1), core, device)
    return factors[0].to(device, torch.float32)


def _misfit(kind: str, delta: HadamardDelta | KroneckerDelta, shape: torch.Size) -> ValueError:
    given = ", ".join(f"{tuple(t.shape)}" for t in delta.tensors())
    return ValueError(f"{kind} onto {delta.name}: factors for shape {tuple(shape)} are wanted, {given} given")
