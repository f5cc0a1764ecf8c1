"""Named tensors in one file: what is in it without reading it, and the tensors themselves, mapped into memory.

Safetensors by default. Pickled files (.ckpt, .pt, .pth, .bin) are read only when they are allowed, and then as weights only, so that no
code in them runs.
"""

from __future__ import annotations

import json
import os
import re
import warnings
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
_PROTOCOLS = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))  # how pickles begin


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
    start = _start(path)
    if _is_pickled(path, start):
        return _pickled(path)
    return _safetensors(path, start)


def is_pickled(path: Path) -> bool:
    """Whether a file is pickled, by what it begins with, then by its name. Raises ValueError for what is no file of tensors at all."""
    return _is_pickled(path, _start(path))


def _start(path: Path) -> bytes:
    """The first bytes of a file. Raises ValueError where they tell that it is no file of tensors, whatever it is called."""
    if path.is_dir():
        raise ValueError(f"{path.name}: a file of tensors is wanted, this is a folder")
    with open(path, "rb") as file:
        start = file.read(512)
    text = start.lstrip().lower()
    if not start:
        raise ValueError(f"{path.name}: the file is empty; download it again")
    if _begins_as_safetensors(start):
        return start
    if text.startswith(b"<"):
        raise ValueError(f"{path.name}: this is an HTML page, such as a download error leaves, not a safetensors file; download it again")
    if text.startswith(b"{"):
        raise ValueError(f"{path.name}: this is JSON, such as a download error leaves, not a safetensors file; download it again")
    if text.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path.name}: this is a pointer to a file in Git LFS, not the file; fetch it with git lfs pull")
    if start.startswith(b"GGUF"):
        raise ValueError(f"{path.name}: this is a GGUF file; a safetensors file is wanted")
    return start


def _begins_as_safetensors(start: bytes) -> bool:
    return start[8:9] == b"{" and 2 <= int.from_bytes(start[:8], "little") <= _HEADER_LIMIT


def _is_pickled(path: Path, start: bytes) -> bool:
    # the length that a safetensors file begins with may have the bytes of PK or of a pickle's first opcode
    return not _begins_as_safetensors(start) and (path.suffix.lower() in PICKLES or start.startswith((b"PK", *_PROTOCOLS)))


def _safetensors(path: Path, start: bytes) -> TensorFile:
    size, length = path.stat().st_size, int.from_bytes(start[:8], "little")
    if not _begins_as_safetensors(start):
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


def _pickled(path: Path) -> TensorFile:
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


class _Left:
    """What a trainer left in a file beside the weights; nothing of it is kept."""

    def __init__(self, *about: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


_LEFT = (  # by Lightning in the first Stable Diffusion checkpoints, and by NumPy wherever a number is one of its own
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "_codecs.encode",
)
_LEFT_OUT = [(type(name.rpartition(".")[2], (_Left,), {}), name) for name in _LEFT]


def load_weights(path: Path) -> Any:
    """What a pickled file holds, read as weights only. ValueError where that is not possible."""
    with torch.serialization.safe_globals([torch.nn.ParameterDict, *_LEFT_OUT]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected pickle protocol")  # whether it can be read shows in the next line
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
        except Exception as problem:  # torch raises whatever the damaged pickle leads to
            # torch's own message goes on for lines, and advises to run the code in the file
            code = re.search(r"GLOBAL ([\w.]+)", str(problem))
            reason = "it is damaged, or no file of PyTorch" if code is None else f"it wants {code[1]} run, which is code"
            raise ValueError(f"{path.name}: this pickled file cannot be read as weights: {reason}") from problem


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
