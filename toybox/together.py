"""Several processes that train one model: each takes a part of every batch, and they average their gradients.

On a CPU that other jobs use too, two processes of one thread each lose less time waiting than two threads, which have
to meet at every operation.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils._pytree import tree_map


def join(meeting_point: Path, rank: int, processes: int) -> None:
    """Meet the others through a file and talk over the loopback interface."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{meeting_point.absolute()}", rank=rank, world_size=processes)


def leave() -> None:
    """Part from the others; without it a process may end badly, in the middle of its network threads."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def own_part(batch: Any) -> Any:
    """This process's rows of a tensor, or of every tensor in a dictionary."""
    if not dist.is_initialized():
        return batch
    return tree_map(lambda x: x[dist.get_rank() :: dist.get_world_size()], batch)


def average_gradients(parameters: Iterable[nn.Parameter], progress: float) -> float:
    """Put the mean over all processes in place of the gradients; returns the mean progress, so that all follow one schedule."""
    if not dist.is_initialized():
        return progress
    grads = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([torch.tensor([progress], dtype=torch.float32), *(g.flatten() for g in grads)])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    at = 1
    for g in grads:
        g.copy_(flat[at : at + g.numel()].view(g.shape))
        at += g.numel()
    return flat[0].item()
