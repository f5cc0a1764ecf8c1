"""Blocks of a U-Net or VAE computed on a region only. They must not use `next` with a map: what a region needs of its surroundings differs.

Modules keep their own forward; for the time of one call their normalisations and convolutions see the region instead of a map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from diffusion.patch import Block, BlockCall, RunBlock
from diffusion.sparse.cache import Layer
from diffusion.sparse.normalise import normalised, statistics
from diffusion.sparse.region import Region, convolved, gather, inside
from diffusion.sparse.speak import speaking

Module = Any  # diffusers declares no types


def plain(block: Block, module: Module) -> bool:
    """Whether a block is of a kind that is known here; another one is always computed whole."""
    if block.kind == "resnet":
        return module.upsample is None and module.downsample is None and isinstance(module.norm1, nn.GroupNorm)
    if block.kind == "sampler":
        conv = getattr(module, "conv", None)
        return getattr(module, "norm", None) is None and isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3)
    if block.kind == "attention":
        return isinstance(module.norm, nn.GroupNorm) and bool(module.is_input_continuous)
    return isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3) and module.padding == (1, 1)


def fresh(block: Block, module: Module, call: BlockCall, next: RunBlock, region: Region, layer: Layer, exact: bool) -> Tensor:
    """The block's output on a region, tall, of a map that was changed within the region (and its surroundings).

    `exact`: the normalisations' statistics are those of the changed map, for which a resnet's first half runs on all of it; otherwise they
    are the original's.
    """
    if block.kind == "conv":
        return convolved(module, gather(call.h, region, 1), region)
    if block.kind == "sampler" and block.place == "up":
        return convolved(module.conv, gather(call.h, region, 1, enlarged=region.size), region)
    if block.kind == "sampler":
        conv = module.conv  # its padding is 1 before and after, or 0 and 1
        return convolved(conv, gather(call.h, region, 1, stride=2, before=conv.padding[0]), region)
    part = BlockCall(gather(call.h, region), block, call.rows, call.step)
    norms = {name: seen.to(call.h.device) for name, seen in layer.norms}

    def seen(name: str, norm: nn.GroupNorm) -> Tensor:
        return statistics(call.h, norm.num_groups) if exact else norms[name]

    with ExitStack() as stack:
        if block.kind == "attention":
            norm = module.norm
            stack.enter_context(speaking(norm, lambda h: normalised(h, seen("norm", norm), norm)))
            return next(part)
        norm1, norm2 = module.norm1, module.norm2

        def valid(conv: nn.Conv2d, halo: int) -> Callable[[Tensor], Tensor]:
            on = inside(region, halo, call.h.device)
            return lambda h: convolved(conv, h if on is None else h * on.to(h.dtype), region)  # zeros beyond the border come last

        if exact:  # new statistics change the first half everywhere, and the second half's statistics with it
            whole = norm1.forward
            stack.enter_context(speaking(norm1, lambda h: whole(call.h)))
            stack.enter_context(speaking(norm2, lambda h: normalised(gather(h, region, 1), statistics(h, norm2.num_groups), norm2)))
        else:
            stack.enter_context(speaking(norm1, lambda h: normalised(gather(call.h, region, 2), norms["norm1"], norm1)))
            stack.enter_context(speaking(module.conv1, valid(module.conv1, 2)))
            stack.enter_context(speaking(norm2, lambda h: normalised(h, norms["norm2"], norm2)))
        stack.enter_context(speaking(module.conv2, valid(module.conv2, 1)))
        return next(part)


# -- recording --


@contextmanager
def noted(block: Block, module: Module) -> Iterator[dict[str, Tensor]]:
    """While a block runs, its normalisations' statistics by name."""
    norms = dict[str, Tensor]()
    wanted = {"resnet": ("norm1", "norm2"), "attention": ("norm",)}.get(block.kind, ())

    def watched(name: str, norm: nn.GroupNorm) -> Callable[[Tensor], Tensor]:
        forward = norm.forward

        def run(h: Tensor) -> Tensor:
            norms[name] = statistics(h, norm.num_groups)
            return forward(h)

        return run

    with ExitStack() as stack:
        for name in wanted:
            norm = getattr(module, name)
            stack.enter_context(speaking(norm, watched(name, norm)))
        yield norms


def work(block: Block, module: nn.Module, out: Tensor) -> int:
    """About how many multiplications one row of a block's output [rows, c, h, w] takes; those of the text alone are left out."""
    cells = out.shape[2] * out.shape[3]
    aside = ("time_emb_proj", "attn2.to_k", "attn2.to_v")
    each = sum(m.weight.numel() for name, m in module.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear)) and not name.endswith(aside))
    if block.kind == "attention":
        each += sum(2 * cells * m.to_q.out_features for name, m in module.named_modules() if name.endswith("attn1"))
    return cells * each


def half(x: Tensor, dtype: torch.dtype | None) -> Tensor:
    """x as it is to be kept."""
    return x.detach() if dtype is None else x.detach().to(dtype)
