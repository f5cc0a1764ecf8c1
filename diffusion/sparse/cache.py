"""What a dense run leaves behind for sparse ones: outputs of blocks, statistics of their normalisations, keys and values of attention."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from diffusion.call import Rows
from diffusion.values import WeightsRef


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One block in one evaluation of the network."""

    name: str
    out: Tensor  # [rows, c, h, w]
    norms: tuple[tuple[str, Tensor], ...] = ()  # by name within the block: mean and variance of each group, [2, rows, groups], float32
    keys: tuple[tuple[str, Tensor, Tensor], ...] = ()  # self-attention by name of the site: keys and values, [rows, heads, n, d]
    work: int = 0  # multiplications for one row

    def tensors(self) -> Iterator[Tensor]:
        """All that is held."""
        yield self.out
        yield from (statistics for _, statistics in self.norms)
        for _, k, v in self.keys:
            yield from (k, v)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(tensor.nbytes for tensor in self.tensors())


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One evaluation of the network. `layers` has the output convolution alone where there was no room for more."""

    sigma: float
    rows: Rows
    layers: tuple[Layer, ...]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(layer.nbytes for layer in self.layers)


@dataclass(frozen=True, slots=True, eq=False)
class ActivationCache:
    """A recorded run: its evaluations in order, and the states that its steps started from."""

    socket: ClassVar[str] = "ACTIVATION_CACHE"
    weights: WeightsRef
    size: tuple[int, int]  # of the latent, in cells
    frames: tuple[Frame, ...]
    states: tuple[Tensor, ...] = ()  # [b, c, h, w] in VE form and model scale, one a step
    latent: Tensor | None = None  # a decoding: the unscaled latent [b, c, h, w] that was decoded

    @property
    def full(self) -> int:
        """How many evaluations are recorded with all their blocks."""
        return sum(len(frame.layers) > 1 for frame in self.frames)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(frame.nbytes for frame in self.frames) + sum(state.nbytes for state in self.states)
