"""A tensor and a device that behave like an accelerator's, without one: bytes in memory, a place, a version counter, a tiny budget."""

from __future__ import annotations

import ctypes
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from graph_engine.device import HostDevice


class Place:
    def __init__(self, type: str) -> None:
        self.type = type


class Storage:
    def __init__(self, data: bytes) -> None:
        self.buffer = ctypes.create_string_buffer(data, max(len(data), 1))
        self.size = len(data)

    def data_ptr(self) -> int:
        return ctypes.addressof(self.buffer)

    def nbytes(self) -> int:
        return self.size


class Tensor:
    """Bytes; `part` gives a view of the same storage."""

    dtype = "uint8"

    def __init__(self, data: bytes, place: str = "cpu", storage: Storage | None = None) -> None:
        self.storage = Storage(data) if storage is None else storage
        self.device, self._version, self.start, self.size = Place(place), 0, 0, len(data)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.size,)

    @property
    def data(self) -> bytes:
        return self.storage.buffer.raw[self.start : self.start + self.size]

    def part(self, start: int, stop: int) -> Tensor:
        view = Tensor(self.data[start:stop], self.device.type, self.storage)
        view.start = self.start + start
        return view

    def fill_(self, value: int) -> None:
        ctypes.memset(self.data_ptr(), value, self.size)
        self._version += 1

    def untyped_storage(self) -> Storage:
        return self.storage

    def data_ptr(self) -> int:
        return self.storage.data_ptr() + self.start

    def numel(self) -> int:
        return self.size

    def element_size(self) -> int:
        return 1

    def is_complex(self) -> bool:
        return False

    def detach(self) -> Tensor:
        return self

    resolve_neg = contiguous = detach


class FakeDevice(HostDevice):
    """Notes what is moved; runs out of memory when a node says so."""

    def __init__(self, budget: int = 1 << 30, name: str = "fake:0", environment: str = "fake 1.0") -> None:
        super().__init__(budget)
        self.name, self._environment = name, environment
        self.moves: list[str] = []
        self.sheds: list[int] = []

    @property
    def environment(self) -> str:
        return self._environment

    def shed(self, bytes: int) -> int:
        self.sheds.append(bytes)
        return super().shed(bytes)

    def is_oom(self, exc: BaseException) -> bool:
        return isinstance(exc, MemoryError)

    def generator(self, seed: int) -> random.Random:
        return random.Random(seed)

    def to_host(self, tensor: Any) -> Any:
        if tensor.device.type == "cpu":
            return tensor
        self.moves.append("down")
        return Tensor(tensor.data)

    def to_device(self, tensor: Any) -> Any:
        if tensor.device.type == "fake":
            return tensor
        self.moves.append("up")
        return Tensor(tensor.data, "fake")

    def save_tensors(self, path: Path, tensors: Mapping[str, Any]) -> None:
        Path(path).write_text(json.dumps({name: tensor.data.hex() for name, tensor in tensors.items()}))

    def load_tensors(self, path: Path) -> dict[str, Any]:
        return {name: Tensor(bytes.fromhex(data)) for name, data in json.loads(Path(path).read_text()).items()}


@dataclass(frozen=True, eq=False)
class Blob:
    """A value with a tensor."""

    socket: ClassVar[str] = "BLOB"
    x: Tensor
    name: str = ""
