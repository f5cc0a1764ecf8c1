"""Files of IP-Adapters: the layout `image_proj.…`, `ip_adapter.N.to_k_ip.weight`, and pickled ones where they are allowed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from diffusion.files import open_tensors
from diffusion.ip_adapter.projector import kind_of
from diffusion.ip_adapter.value import IPAdapter
from diffusion.values import WeightsRef


def open_ip_adapter(path: str | Path) -> IPAdapter:
    """An IP-Adapter as a reference to its file, of which only names and shapes are read.

    Raises FileNotFoundError when there is no such file, ValueError when it is something else, a FaceID adapter, or lacks weights.
    """
    from diffusion.family.ip_adapter import assembled, split  # here, because it imports this package

    source = Path(path).expanduser().resolve()
    if not source.is_file():
        raise FileNotFoundError(f"{source}: an IP-Adapter file is wanted, nothing found")
    file = open_tensors(source)
    projector, others = split(file.shapes)
    if not projector or not others:
        from diffusion.family.checkpoint import describe  # here, because it imports the model libraries

        raise ValueError(f"{source.name}: an IP-Adapter is wanted (image_proj.… and ip_adapter.…); {describe(file)}")
    told = {name: torch.empty(shape, device="meta") for name, shape in file.shapes.items()}
    adapter, reads, text = assembled(told, torch.float32, source)
    stat = source.stat()
    digest = hashlib.blake2b(f"{source.name} {stat.st_size} {stat.st_mtime_ns}\n".encode(), digest_size=16).hexdigest()
    ref = WeightsRef("ip_adapter", str(source), "ip_adapter", digest)
    return IPAdapter(ref, kind_of(projector), reads, text, len(adapter.ip_adapter))
