"""Middleware around named blocks of a network, and sums of what side networks add."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from diffusion.patch import Block, BlockCall, FeaturePatch, Moment, Residuals, Rows

Now = Callable[[Block], tuple[Rows, Moment, Sequence[FeaturePatch]]]


@contextmanager
def tapped(module: nn.Module, block: Block, now: Now) -> Iterator[None]:
    """Run a module's forward through the patches that `now` names at the time of a call; undone on exit.

    The module takes its features as first argument and returns features alone, or, asked with return_dict=False, in a tuple of one.
    """
    before = module.__dict__.get("forward")
    forward = module.forward

    def run(h: Tensor, *args: Any, **kwargs: Any) -> Any:
        rows, step, chain = now(block)
        as_tuple = kwargs.get("return_dict") is False

        def inner(call: BlockCall) -> Tensor:
            given = args if call.reach is None else (call.reach, *args[1:])  # the size is what an upsampler takes next
            raw = forward(call.h, *given, **kwargs)
            h: Tensor = raw[0] if as_tuple else raw
            return h

        out = run_chain(BlockCall(h, block, rows, step), chain, inner)
        return (out,) if as_tuple else out

    module.forward = run
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before


def run_chain(call: BlockCall, chain: Sequence[FeaturePatch], block: Callable[[BlockCall], Tensor]) -> Tensor:
    """The block's output with middleware around it; the last patch of the chain is the outermost."""
    if not chain:
        return block(call)
    inner = chain[:-1]
    return chain[-1].block(call, lambda inner_call: run_chain(inner_call, inner, block))


def total(several: Iterable[Residuals | None]) -> Residuals | None:
    """The sum of residuals, place by place; None when there are none. Raises ValueError where their numbers of places differ."""
    sum: Residuals | None = None
    for one in several:
        if one is not None:
            sum = one if sum is None else Residuals(_add(sum.down, one.down), _add_one(sum.mid, one.mid), _add(sum.intra, one.intra))
    return sum


def _add(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    if not a or not b:
        return a or b
    if len(a) != len(b):
        raise ValueError(f"residuals of two side networks: {len(a)} and {len(b)} places, the same number is wanted")
    return tuple(x + y for x, y in zip(a, b, strict=True))


def _add_one(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b
