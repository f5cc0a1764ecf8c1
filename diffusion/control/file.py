"""Files of side networks: which kind they are, and their contents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from diffusion.control.value import ControlNet
from diffusion.files import open_tensors
from diffusion.loading import read_tensors
from diffusion.values import WeightsRef

POOLED = "_shuffle"  # ControlNets whose file is called so say nothing about places


def open_control(path: str | Path) -> ControlNet:
    """A ControlNet or T2I-Adapter as a reference to its file or diffusers folder; only names of weights are read.

    Raises FileNotFoundError when there is no such file, ValueError when it is something else.
    """
    file = Path(path).expanduser().resolve()
    if not file.exists():
        raise FileNotFoundError(f"{file}: a ControlNet or T2I-Adapter is wanted, nothing found")
    names = _names(file)
    kind = kind_of(names)
    if kind is None:
        raise ValueError(f"{file.name}: a ControlNet or T2I-Adapter is wanted; {_instead(file, names)}")
    digest = hashlib.blake2b(digest_size=16)
    for member in sorted(file.iterdir()) if file.is_dir() else [file]:
        stat = member.stat()
        digest.update(f"{member.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return ControlNet(WeightsRef("controlnet", str(file), "control", digest.hexdigest()), kind, pooled=POOLED in file.name)


def kind_of(names: Iterable[str]) -> str | None:
    """What a file with weights of these names is: controlnet, difference, lora or adapter; None for anything else."""
    known = list(names)
    if is_adapter(known):
        return "adapter"
    if any(name.endswith("lora_controlnet") for name in known):
        return "lora"
    if any(name.startswith(("control_model.zero_convs.", "zero_convs.", "controlnet_cond_embedding.")) for name in known):
        return "difference" if "difference" in known else "controlnet"
    return None


def is_adapter(names: Iterable[str]) -> bool:
    """Whether weights of these names are a T2I-Adapter's, in the authors' layout or diffusers'."""
    return any(name.startswith(("adapter.body.", "body.0.")) for name in names)


def contents(path: Path) -> dict[str, Tensor]:
    """All tensors of a file or of a diffusers folder."""
    if path.is_dir():
        return read_tensors(path)
    file = open_tensors(path)
    return file.read(file.shapes)


def _instead(path: Path, names: list[str]) -> str:
    if path.is_dir():
        return f"{len(names)} weights of something else found ({', '.join(names[:5])})"
    from diffusion.family.checkpoint import describe  # here, because it imports the model libraries

    return describe(open_tensors(path))


def _names(path: Path) -> list[str]:
    if path.is_dir():
        return list(read_tensors(path, meta=True))
    return list(open_tensors(path).shapes)
