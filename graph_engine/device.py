"""What the engine asks of a device, and the plain host for graphs without tensors."""

from __future__ import annotations

import importlib.metadata
import os
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from graph_engine.errors import GraphError

__all__ = ["GROUP", "Device", "DeviceFacts", "HostDevice", "Tenant", "host_free", "host_memory", "open_device"]

GROUP = "latentgraph.devices"


class Tenant(Protocol):
    """Somebody who holds memory on a device and can give some of it back."""

    def shed(self, bytes: int) -> int:
        """Free about this many bytes; how many were freed."""

    def residents(self) -> list[tuple[str, int]]:
        """Who holds how many bytes."""


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What a device is and how much memory it has, in bytes; `held` and `spare` are those of torch's allocator."""

    name: str
    type: str
    index: int
    total: int
    free: int
    held: int = 0
    spare: int = 0


class Device(Protocol):
    """A place where tensors are computed, with one byte budget that weights and results share."""

    name: str
    budget: int

    @property
    def environment(self) -> str:
        """What else a result depends on: library versions, the kind of device."""

    def reserve(self, bytes: int) -> None: ...
    def shed(self, bytes: int) -> int: ...
    def residents(self) -> list[tuple[str, int]]: ...
    def is_oom(self, exc: BaseException) -> bool: ...
    def unload(self) -> None: ...
    def facts(self) -> DeviceFacts: ...
    def add_tenant(self, tenant: Tenant) -> None: ...
    def generator(self, seed: int) -> Any: ...
    def save_tensors(self, path: Path, tensors: Mapping[str, Any]) -> None: ...
    def load_tensors(self, path: Path) -> dict[str, Any]: ...
    def to_host(self, tensor: Any) -> Any: ...
    def to_device(self, tensor: Any) -> Any: ...


class HostDevice:
    """The host alone, for graphs of scalars and plain values; it has no tensors to move or to write."""

    def __init__(self, budget: int | None = None) -> None:
        self.name = "cpu"
        self.budget = host_memory() // 4 if budget is None else budget
        self._tenants: list[Tenant] = []

    @property
    def environment(self) -> str:
        return "host"

    def reserve(self, bytes: int) -> None:
        over = sum(size for _, size in self.residents()) + bytes - self.budget
        if over > 0:
            self.shed(over)

    def shed(self, bytes: int) -> int:
        freed = 0
        for tenant in self._tenants:
            if freed < bytes:
                freed += tenant.shed(bytes - freed)
        return freed

    def residents(self) -> list[tuple[str, int]]:
        return [row for tenant in self._tenants for row in tenant.residents()]

    def unload(self) -> None:
        """Let go of weights; the plain host has none."""

    def facts(self) -> DeviceFacts:
        return DeviceFacts("cpu", "cpu", 0, host_memory(), host_free())

    def is_oom(self, exc: BaseException) -> bool:
        return isinstance(exc, MemoryError)

    def add_tenant(self, tenant: Tenant) -> None:
        self._tenants.append(tenant)

    def generator(self, seed: int) -> random.Random:
        return random.Random(seed)

    def save_tensors(self, path: Path, tensors: Mapping[str, Any]) -> None:
        raise GraphError("the plain host cannot write tensors; open a device of the installed group latentgraph.devices")

    def load_tensors(self, path: Path) -> dict[str, Any]:
        raise GraphError("the plain host cannot read tensors; open a device of the installed group latentgraph.devices")

    def to_host(self, tensor: Any) -> Any:
        return tensor

    def to_device(self, tensor: Any) -> Any:
        return tensor


def open_device(name: str = "auto", budget: int | None = None) -> Device:
    """The device of this name from the installed packages; the plain host when no package offers devices.

    Raises GraphError when only the plain host is there and another name was asked for, ValueError when the package knows no such device.
    """
    points = sorted(importlib.metadata.entry_points(group=GROUP), key=lambda point: point.name)
    if points:
        opened: Callable[[str, int | None], Device] = points[0].load()
        return opened(name, budget)
    if name not in ("auto", "cpu"):
        raise GraphError(f"device {name!r}: no package that offers devices is installed (entry-point group {GROUP})")
    return HostDevice(budget)


def host_memory() -> int:
    """Bytes of memory that this machine, or the container around this process, has."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 8 << 30
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        file = Path(limit)
        text = file.read_text().strip() if file.is_file() else "max"
        if text.isdigit():
            total = min(total, int(text))
    return total


def host_free() -> int:
    """Bytes of memory that this machine could give to a new program now."""
    info = Path("/proc/meminfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return min(int(line.split()[1]) * 1024, host_memory())
    pages = os.sysconf("SC_AVPHYS_PAGES") if "SC_AVPHYS_PAGES" in getattr(os, "sysconf_names", ()) else 0
    return pages * os.sysconf("SC_PAGE_SIZE") if pages else host_memory()
