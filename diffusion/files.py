"""Named tensors in one file: what is in it without reading it, and the tensors themselves, mapped into memory.

Safetensors by default. Pickled files (.ckpt, .pt, .pth, .bin) are read only when they are allowed, and then as weights only, so that no
code in them runs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

PICKLES = (".ckpt", ".pt", ".pt2", ".pth", ".bin", ".pkl")
ALLOW = "LATENTGRAPH_ALLOW_PICKLE"
_HEADER_LIMIT = 100 << 20  # bytes; safetensors' own limit


@dataclass(frozen=True, slots=True, eq=False)
class TensorFile:
    """What a file of tensors holds: shapes and dtypes by name, and its metadata."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, torch.dtype]
    metadata: Mapping[str, str]
    loaded: Mapping[str, Tensor] = field(default_factory=dict)  # of a pickled file

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """These tensors, mapped into memory where the file allows; do not write into them."""
        if self.loaded:
            return {name: self.loaded[name] for name in names}
        with safe_open(self.path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in names}


def open_tensors(path: Path) -> TensorFile:
    """Look into a file of tensors. Raises ValueError for a file that is none, is truncated, or is pickled and not allowed."""
    with open(path, "rb") as file:
        start = file.read(512)
    if path.suffix.lower() in PICKLES or start[:2] in (b"PK", b"\x80\x02"):
        return _pickled(path, start)
    text = start.lstrip().lower()
    if not start:
        raise ValueError(f"{path.name}: the file is empty; download it again")
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<")):
        raise ValueError(f"{path.name}: this is an HTML page, such as a download error leaves, not a safetensors file; download it again")
    if text.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path.name}: this is a pointer to a file in Git LFS, not the file; fetch it with git lfs pull")
    if start.startswith(b"GGUF"):
        raise ValueError(f"{path.name}: this is a GGUF file; a safetensors file is wanted")
    return _safetensors(path, start)


def _safetensors(path: Path, start: bytes) -> TensorFile:
    size, length = path.stat().st_size, int.from_bytes(start[:8], "little")
    if len(start) < 8 or not 2 <= length <= _HEADER_LIMIT or start[8:9] != b"{":
        raise ValueError(f"{path.name}: this is not a safetensors file; it starts with {start[:12]!r}")
    if 8 + length > size:
        raise ValueError(f"{path.name}: the file is truncated: its header alone has {8 + length} bytes, the file {size}; download it again")
    with open(path, "rb") as file:
        file.seek(8)
        try:
            header: dict[str, Any] = json.loads(file.read(length))
            metadata = header.pop("__metadata__", {})
            end = max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError) as problem:
            raise ValueError(f"{path.name}: the header of this safetensors file is damaged ({problem}); download it again") from problem
    if 8 + length + end > size:
        raise ValueError(f"{path.name}: the file is truncated: {8 + length + end} bytes are wanted, it has {size}; download it again")
    try:
        with safe_open(path, framework="pt"):
            pass
    except SafetensorError as problem:
        raise ValueError(f"{path.name}: this safetensors file cannot be read ({problem}); download it again") from problem
    unknown = {entry["dtype"] for entry in header.values()} - _DTYPES.keys()
    if unknown:
        raise ValueError(f"{path.name}: tensors of type {', '.join(sorted(unknown))} are not known")
    shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
    return TensorFile(path, shapes, {name: _DTYPES[entry["dtype"]] for name, entry in header.items()}, metadata)


_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


# -- pickles --


def pickle_allowed() -> bool:
    """Whether the user said that pickled files may be read."""
    return os.environ.get(ALLOW, "").strip().lower() in ("1", "true", "yes", "on")


def check_allowed(path: Path) -> None:
    """Raise ValueError, saying how to convert this pickled file, unless the user said that such files may be read."""
    if not pickle_allowed():
        raise ValueError(
            f"{path.name}: pickled files are not opened unless allowed (--allow-pickle, or {ALLOW}=1); better convert it once: "
            f"python -m diffusion.convert {path.name}"
        )


def _pickled(path: Path, start: bytes) -> TensorFile:
    if path.suffix.lower() not in PICKLES:
        raise ValueError(
            f"{path.name}: this is a zip archive or a pickled PyTorch file, not a safetensors file; download or convert it again"
        )
    check_allowed(path)
    loaded = named_tensors(path, load_weights(path))
    return TensorFile(path, {n: tuple(t.shape) for n, t in loaded.items()}, {n: t.dtype for n, t in loaded.items()}, {}, loaded)


_WRAPPED = ("state_dict", "params_ema", "params-ema", "params")  # trainers' files keep weights below one of these


def named_tensors(path: Path, content: Any) -> dict[str, Tensor]:
    """The tensors in what a pickled file holds, by name; those below `state_dict` where there is one. ValueError for anything else."""
    for name in _WRAPPED:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping):
        raise ValueError(f"{path.name}: named tensors are wanted, {type(content).__name__} found")
    tensors = {str(name): value.detach() for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:  # IP-Adapters: the parts of the file are tables of their own
        parts = [(part, inner) for part, inner in content.items() if isinstance(inner, Mapping)]
        tensors = {f"{part}.{n}": value.detach() for part, inner in parts for n, value in inner.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"{path.name}: named tensors are wanted, none found")
    return tensors


def load_weights(path: Path) -> Any:
    """What a pickled file holds, read as weights only. ValueError where that is not possible."""
    with torch.serialization.safe_globals([torch.nn.ParameterDict]):
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
        except Exception as problem:  # torch raises whatever the damaged pickle leads to
            reason = str(problem).strip().split("\n")[0][:160]
            raise ValueError(f"{path.name}: this pickled file cannot be read as weights ({type(problem).__name__}: {reason})") from problem


# -- writing --


def write_tensors(file: BinaryIO, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors, one after the other, so that no second copy of them is in memory."""
    kinds = {dtype: name for name, dtype in _DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, tensor in tensors.items():
        header[name] = {"dtype": kinds[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [end, end + tensor.nbytes]}
        end += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the numbers begin at a multiple of 8
    file.write(len(text).to_bytes(8, "little") + text)
    for tensor in tensors.values():
        file.write(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
