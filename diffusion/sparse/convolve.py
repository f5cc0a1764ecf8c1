"""Convolution of few cells: as one matrix product where the weights are large, for torch's own sorts all weights anew in every call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion.sparse.speak import speaking

PAYS = 20_000  # weights per output cell from which on the product is faster; measured with float32 on one core of a Xeon with AVX-512


def convolve(conv: nn.Conv2d, x: Tensor, padding: tuple[int, int] | None = None) -> Tensor:
    """What `conv` makes of x [b, c, h, w], with its own padding or this one."""
    pad = _pair(conv.padding) if padding is None else padding
    (tall, wide), (down, across) = _pair(conv.kernel_size), _pair(conv.stride)
    height, width = (x.shape[2] + 2 * pad[0] - tall) // down + 1, (x.shape[3] + 2 * pad[1] - wide) // across + 1
    plain = conv.groups == 1 and conv.dilation == (1, 1) and x.device.type == "cpu" and x.dtype == torch.float32
    if not plain or len(x) * height * width * PAYS > conv.weight.numel():
        return F.conv2d(x, conv.weight, conv.bias, conv.stride, pad, conv.dilation, conv.groups)
    seen = F.unfold(x, (tall, wide), padding=pad, stride=(down, across))  # (b, c · 9, cells)
    columns = seen[0] if len(x) == 1 else seen.transpose(0, 1).flatten(1)
    out = conv.weight.flatten(1) @ columns  # (o, b · cells)
    if conv.bias is not None:
        out += conv.bias[:, None]
    return out.view(-1, len(x), height, width).transpose(0, 1)


@contextmanager
def convolving(module: nn.Module) -> Iterator[None]:
    """Let all convolutions in a module run as `convolve` does; undone on exit."""
    with ExitStack() as stack:
        for each in module.modules():
            if isinstance(each, nn.Conv2d):
                stack.enter_context(speaking(each, partial(convolve, each)))
        yield


def _pair(given: int | str | tuple[int, ...]) -> tuple[int, int]:
    if isinstance(given, int):
        return given, given
    if isinstance(given, str):
        raise ValueError(f"convolution: padding in numbers is wanted, {given!r} given")
    return given[0], given[1]
