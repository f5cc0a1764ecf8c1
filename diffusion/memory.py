"""One memory budget per device, and who holds what of it: weights (here), and results (a tenant that the engine adds)."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Protocol, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from diffusion.family import load
from diffusion.values import WeightsRef

Load = Callable[[WeightsRef, torch.dtype], nn.Module]


class Tenant(Protocol):
    """Somebody who holds memory on a device and can give some of it back."""

    def shed(self, bytes: int) -> int:
        """Free about this many bytes (more or less); how many were freed."""

    def residents(self) -> list[tuple[str, int]]:
        """What is held: names and bytes."""


@dataclass(slots=True, eq=False)
class _Entry:
    module: nn.Module
    bytes: int
    open: bool = False
    on_host: bool = False


class Weights:
    """Networks by reference: on the device while a session has them open, then for as long as there is room, least recently used first out.

    From an accelerator idle weights go to the host's memory, and from there, beyond `host_budget` bytes, away; the next session reloads
    them from their file.
    """

    def __init__(self, device: torch.device, host_budget: int, load: Load = load) -> None:
        self._device, self._host_budget, self._load = device, host_budget, load
        self._entries: dict[WeightsRef, _Entry] = {}  # least recently used first
        self._lock = threading.RLock()

    @contextmanager
    def open(self, ref: WeightsRef, make_room: Callable[[int], None]) -> Iterator[nn.Module]:
        """The network of a reference, pinned on the device; one session at a time, because sessions change modules in place."""
        with self._lock:
            entry = self._entries.get(ref)
            if entry is not None and entry.open:
                raise RuntimeError(f"the {ref.part} weights of {ref.source} are open in another session; close that first")
            if entry is None:
                module = self._load(ref, _dtype(ref, self._device)).eval().requires_grad_(False)
                entry = _Entry(module, sum(t.nbytes for t in [*module.parameters(), *module.buffers()]), on_host=True)
            entry.open = True
            self._entries.pop(ref, None)
            self._entries[ref] = entry
        try:
            if entry.on_host:
                make_room(entry.bytes)
                entry.module.to(self._device, memory_format=_layout(self._device))  # type: ignore[call-overload]
                entry.on_host = False
            yield entry.module
        finally:
            entry.open = False

    def shed(self, bytes: int) -> int:
        """Move idle weights off the device until this many bytes are free; how many were freed."""
        freed = 0
        with self._lock:
            for ref, entry in list(self._entries.items()):
                if freed >= bytes:
                    break
                if entry.open or entry.on_host:
                    continue
                freed += entry.bytes
                if self._device.type == "cpu":
                    del self._entries[ref]
                else:
                    entry.module.to("cpu")
                    entry.on_host = True
            self._trim_host()
        return freed

    def _trim_host(self) -> None:
        idle = [(ref, entry) for ref, entry in self._entries.items() if entry.on_host and not entry.open]
        excess = sum(entry.bytes for _, entry in idle) - self._host_budget
        for ref, entry in idle:
            if excess <= 0:
                break
            del self._entries[ref]
            excess -= entry.bytes

    def clear(self) -> None:
        """Let go of all idle weights, also of those in the host's memory."""
        with self._lock:
            self._entries = {ref: entry for ref, entry in self._entries.items() if entry.open}

    def residents(self) -> list[tuple[str, int]]:
        """Networks on the device."""
        with self._lock:
            return [(f"{r.part} of {Path(r.source).name}", e.bytes) for r, e in self._entries.items() if not e.on_host]


@dataclass(frozen=True, slots=True)
class Facts:
    """What a device is and how much memory it has, in bytes; `held` and `spare` are those of torch's allocator."""

    name: str
    type: str
    index: int
    total: int
    free: int
    held: int = 0
    spare: int = 0


class TorchDevice:
    """A torch device with a byte budget, which the engine's results and the weights of sessions share."""

    def __init__(self, device: torch.device | str, budget: int | None = None, *, load: Load = load) -> None:
        self.torch = torch.device(device)
        self.name = str(self.torch)
        self.budget = _room(self.torch) if budget is None else budget
        self._weights = Weights(self.torch, host_budget=_room(torch.device("cpu")) // 2, load=load)
        self._tenants: list[Tenant] = []

    @property
    def environment(self) -> str:
        """What the numbers of a result depend on beside its inputs: library versions and the kind of device."""
        kind = torch.cuda.get_device_name(self.torch) if self.torch.type == "cuda" else self.torch.type
        versions = " ".join(f"{name} {version(name)}" for name in ("torch", "diffusers", "transformers"))
        return f"{kind}, {versions}"

    def add_tenant(self, tenant: Tenant) -> None:
        """Let somebody else hold memory here; tenants are asked for room before weights are."""
        self._tenants.append(tenant)

    def residents(self) -> list[tuple[str, int]]:
        """Who holds what on this device: names and bytes."""
        return [row for tenant in [*self._tenants, self._weights] for row in tenant.residents()]

    def reserve(self, bytes: int) -> None:
        """Make room for so many bytes within the budget: kept results go first, then idle weights. More than can be freed is no error."""
        over = sum(size for _, size in self.residents()) + bytes - self.budget
        if over > 0:
            self.shed(over)

    def shed(self, bytes: int) -> int:
        """Free about this many bytes; how many were freed."""
        freed = 0
        for tenant in [*self._tenants, self._weights]:
            if freed >= bytes:
                break
            freed += tenant.shed(bytes - freed)
        if freed and self.torch.type == "cuda":
            torch.cuda.empty_cache()
        return freed

    def unload(self) -> None:
        """Let go of all weights that no session has open; the next one reloads them from their files."""
        self._weights.clear()
        if self.torch.type == "cuda":
            torch.cuda.empty_cache()

    def facts(self) -> Facts:
        """What the device is, and how much memory it has in bytes."""
        index = self.torch.index or 0
        if self.torch.type == "cuda":
            free, total = torch.cuda.mem_get_info(self.torch)
            held = torch.cuda.memory_reserved(self.torch)
            spare = held - torch.cuda.memory_allocated(self.torch)
            return Facts(torch.cuda.get_device_name(self.torch), "cuda", index, total, free + spare, held, spare)
        total = 2 * _room(torch.device("cpu"))
        return Facts(self.name, self.torch.type, index, total, min(total, _available()))

    @contextmanager
    def weights(self, ref: WeightsRef) -> Iterator[nn.Module]:
        """The network of a reference on this device, pinned until the block ends; RuntimeError when it is already open."""
        with self._weights.open(ref, self.reserve) as module:
            yield module

    def is_oom(self, exc: BaseException) -> bool:
        """Whether an exception means that memory ran out."""
        if isinstance(exc, torch.OutOfMemoryError | MemoryError):
            return True
        return isinstance(exc, RuntimeError) and "can't allocate memory" in str(exc)  # torch's CPU allocator raises a plain RuntimeError

    def nbytes(self, tensor: Tensor) -> int:
        """Bytes that a tensor's own elements take."""
        return tensor.nbytes

    def to_device(self, tensor: Tensor) -> Tensor:
        """The tensor on this device; itself when it is there."""
        return tensor.to(self.torch)

    def to_host(self, tensor: Tensor) -> Tensor:
        """The tensor in the host's memory; itself when it is there."""
        return tensor.to("cpu")

    def save_tensors(self, path: str | Path, tensors: Mapping[str, Tensor]) -> None:
        """Write named tensors as safetensors; tensors that share memory are written out one by one."""
        save_file({name: tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}, path)

    def load_tensors(self, path: str | Path) -> dict[str, Tensor]:
        """Read named tensors of a safetensors file into the host's memory."""
        tensors: dict[str, Tensor] = load_file(path)
        return tensors

    def generator(self, seed: int) -> torch.Generator:
        """A random generator on the CPU, so that a seed means the same on every device."""
        return torch.Generator().manual_seed(seed)


def open_device(name: str = "auto", budget: int | None = None) -> TorchDevice:
    """A device by torch's name for it; "auto" is the first accelerator there is, else the CPU.

    `budget` in bytes; by default 90 % of an accelerator's memory, half of the host's. ValueError when there is no such device.
    """
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        name = "cpu" if accelerator is None else str(accelerator)
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as problem:  # torch raises AssertionError where it was built without CUDA
        raise ValueError(f"device: {name!r} is not available: {problem}") from problem
    return TorchDevice(device, budget)


def _dtype(ref: WeightsRef, device: torch.device) -> torch.dtype:
    if ref.dtype is not None and not ref.dtype.startswith("float8"):  # float8 is how weights are rounded, not computed with
        dtype = getattr(torch, ref.dtype, None)
        if dtype not in (torch.float32, torch.float16, torch.bfloat16):
            raise ValueError(f"dtype: float32, float16 or bfloat16 is wanted, {ref.dtype!r} given")
        return cast("torch.dtype", dtype)
    # fp16 arithmetic is an order of magnitude slower than fp32 on CPUs; VAEs overflow in fp16
    half = device.type == "cuda" and ref.part != "vae"
    return torch.float16 if half else torch.float32


def _layout(device: torch.device) -> torch.memory_format:
    # tensor cores convolve pictures with the channels last; on CPUs neither layout is always the faster one
    return torch.channels_last if device.type == "cuda" else torch.preserve_format


def _room(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory * 0.9)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 8 << 30
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):  # a container may have less
        text = Path(limit).read_text().strip() if Path(limit).is_file() else "max"
        if text.isdigit():
            total = min(total, int(text))
    return total // 2


def _available() -> int:
    """Bytes of the host's memory that a new program could have now; all of it where the system does not tell."""
    info = Path("/proc/meminfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), 2 * _room(torch.device("cpu")))
