"""Changes of parameters. Deltas, W' = W + Σ strength·Δ, add up in any order, bit for bit; what is not a sum (DoRA, merging with another
network) takes the weight as its predecessors left it. Nothing leaves a trace when undone.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from diffusion.patch import Patch, WeightPatch
from diffusion.values import WeightsRef


class Delta(Protocol):
    """Something to add to one parameter."""

    @property
    def name(self) -> str: ...
    @property
    def strength(self) -> float: ...

    def tensors(self) -> tuple[Tensor, ...]:
        """The stored numbers."""

    def compute(self, shape: torch.Size, device: torch.device) -> Tensor:
        """The delta in float32; raises ValueError where it does not fit."""


class Change:
    """A change of one parameter that is not a sum, so its place among the others matters. Subclasses have a `name` and a `strength`."""

    __slots__ = ()
    name: str
    strength: float

    def change(self, weight: Tensor) -> Tensor:
        """The changed weight, of a weight in float32; raises ValueError where it does not fit."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, eq=False)
class Blend(WeightPatch):
    """W' = own·W + other·W₂ for all parameters that two networks share; W₂ carries the weight patches that it comes with.

    Parameters that the other network lacks or has in another shape stay as they are, with a warning.
    """

    source: WeightsRef  # the other network
    patches: tuple[Patch, ...]
    factors: tuple[tuple[str, float, float], ...]  # start of parameter names, own, other; the longest that fits counts
    skip: tuple[str, ...] = ()  # ends of names of parameters that stay as they are

    def deltas(self) -> tuple[Blend]:
        """Itself."""
        return (self,)

    def of(self, name: str) -> tuple[float, float]:
        """The two factors for a parameter."""
        fitting = [] if name.endswith(self.skip) else [entry for entry in self.factors if name.startswith(entry[0])]
        _, own, other = max(fitting, key=lambda entry: len(entry[0]), default=("", 1.0, 0.0))
        return own, other


Item = Delta | Change | Blend
Numbers = Mapping[str, Tensor]  # parameters by name


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


@dataclass(frozen=True, slots=True, eq=False)
class SetWeight(Change):
    """The parameter becomes these numbers, whatever the strength, unless that is 0."""

    name: str
    value: Tensor
    strength: float = 1.0

    def change(self, weight: Tensor) -> Tensor:
        """The numbers in float32; raises ValueError where they do not fit."""
        if self.value.numel() != weight.numel():
            raise ValueError(f"weight for {self.name}: shape {tuple(weight.shape)} is wanted, {tuple(self.value.shape)} given")
        return self.value.to(weight).reshape(weight.shape)


def deltas_of(patches: Iterable[Patch]) -> tuple[Item, ...]:
    """What all patches that speak at the weights seam have to say, in their order."""
    return tuple(item for patch in patches if isinstance(patch, WeightPatch) for item in patch.deltas())


@contextmanager
def opened(
    ref: WeightsRef, patches: Iterable[Patch], open: Callable[[WeightsRef], AbstractContextManager[nn.Module]]
) -> Iterator[nn.Module]:
    """A network with the weight patches in effect. `open` is `TorchDevice.weights`.

    Networks that patches refer to are open only while the sums are made.
    """
    items = deltas_of(patches)
    with ExitStack() as stack:
        module = stack.enter_context(open(ref))
        with ExitStack() as reading:
            sources = {ref: _numbers(module)} if items else {}
            for other in _sources(items):
                if other not in sources:
                    sources[other] = _numbers(reading.enter_context(open(other)))
            stack.enter_context(applied(module, items, sources))
        yield module


@contextmanager
def applied(module: nn.Module, items: Iterable[Item], sources: Mapping[WeightsRef, Numbers] | None = None) -> Iterator[None]:
    """The module with the changes made to its parameters. The original tensors come back on exit, not copies of them.

    Sums run in float32 and are cast once. `sources`: the unpatched parameters of networks that blends refer to. Raises KeyError for a
    parameter that the module does not have, ValueError where a change does not fit.
    """
    plan = _Plan(items, sources or {})
    parameters: Mapping[str, nn.Parameter] = dict(module.named_parameters()) if plan else {}
    missing = sorted(plan.by_name.keys() - parameters.keys())
    if missing:
        raise KeyError(f"deltas name {len(missing)} parameters that {type(module).__name__} does not have: {', '.join(missing[:5])}")
    plan.check(parameters)
    originals: list[tuple[nn.Parameter, Tensor]] = []
    try:
        for name in parameters if plan.blends else plan.by_name:
            parameter = parameters[name]
            original = parameter.data
            value = plan.value(name, original)
            if value is not original:
                originals.append((parameter, original))
                parameter.data = value.to(original.dtype)
        if plan.unlike:
            warnings.warn(
                f"merge: {len(plan.unlike)} of {len(parameters)} parameters are not in the other network in this shape and stay as they "
                f"are: {', '.join(plan.unlike[:3])}",
                stacklevel=3,
            )
        yield
    finally:
        for parameter, original in originals:
            parameter.data = original


class _Plan:
    """Changes by parameter, and what comes of one."""

    def __init__(self, items: Iterable[Item], sources: Mapping[WeightsRef, Numbers]) -> None:
        self.by_name: dict[str, list[tuple[int, Item]]] = {}
        self.blends: list[tuple[int, Item]] = []
        self.unlike: list[str] = []
        self._others: dict[int, tuple[Numbers, _Plan]] = {}
        for i, item in enumerate(items):
            if isinstance(item, Blend):
                self.blends.append((i, item))
                self._others[i] = (sources[item.source], _Plan(deltas_of(item.patches), sources))
            elif item.strength != 0:
                self.by_name.setdefault(item.name, []).append((i, item))

    def __bool__(self) -> bool:
        return bool(self.by_name or self.blends)

    def check(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Raise ValueError when a blend is with a network that has nothing in common with this one."""
        for i, blend in self.blends:
            numbers, _ = self._others[i]
            if not any(name in numbers and numbers[name].shape == own.shape for name, own in parameters.items()):
                assert isinstance(blend, Blend)
                raise ValueError(
                    f"merge: a network of the same kind is wanted; {blend.source.source} ({blend.source.family}) shares no parameter"
                )

    def value(self, name: str, original: Tensor) -> Tensor:
        """The parameter after all changes, in float32; the original itself when there are none."""
        weight, pending = original, list[Delta]()
        # deltas that follow one another add up before they meet the weight, so that their order does not matter
        for i, item in sorted([*self.by_name.get(name, ()), *self.blends], key=lambda entry: entry[0]):
            if not isinstance(item, Blend | Change):
                pending.append(item)
                continue
            if pending:
                weight, pending = weight.float() + _sum(pending, weight), []
            weight = self._blend(weight, name, i, item) if isinstance(item, Blend) else item.change(weight.float())
        return weight.float() + _sum(pending, weight) if pending else weight

    def _blend(self, weight: Tensor, name: str, i: int, blend: Blend) -> Tensor:
        own, other = blend.of(name)
        if (own, other) == (1, 0):
            return weight
        numbers, plan = self._others[i]
        theirs = numbers.get(name)
        if theirs is None or theirs.shape != weight.shape:
            self.unlike.append(name)
            return weight
        return weight.float() * own + plan.value(name, theirs).to(weight.device, torch.float32) * other


def _numbers(module: nn.Module) -> Numbers:
    return {name: parameter.data for name, parameter in module.named_parameters()}


def _sources(items: Iterable[Item]) -> Iterator[WeightsRef]:
    for item in items:
        if isinstance(item, Blend):
            yield item.source
            yield from _sources(deltas_of(item.patches))


def _sum(deltas: list[Delta], like: Tensor) -> Tensor:
    # Float addition commutes but does not associate: from three summands on the order is fixed by the content.
    if len(deltas) > 2:
        marks = [_mark(delta) for delta in deltas]
        if len(set(marks)) < len(marks):  # rare, and slow: all numbers are read
            marks = [_digest(delta) for delta in deltas]
        deltas = [delta for _, delta in sorted(zip(marks, deltas, strict=True), key=lambda entry: entry[0])]
    total = deltas[0].compute(like.shape, like.device)
    for delta in deltas[1:]:
        total = total + delta.compute(like.shape, like.device)
    return total


def _mark(delta: Delta) -> bytes:
    first = [(tuple(tensor.shape), tensor.detach().flatten()[:8].float().tolist()) for tensor in delta.tensors()]
    return repr((type(delta).__name__, delta.strength, getattr(delta, "alpha", None), first)).encode()


def _digest(delta: Delta) -> bytes:
    digest = hashlib.blake2b(repr((type(delta).__name__, delta.strength, getattr(delta, "alpha", None))).encode())
    for tensor in delta.tensors():
        digest.update(repr(tuple(tensor.shape)).encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.digest()
