"""Facts about this machine."""

from __future__ import annotations

from functools import cache
from importlib import metadata
from pathlib import Path

__all__ = ["free_memory", "version"]


def free_memory() -> int:
    """Bytes that programs could still take; 0 where the system does not say."""
    file = Path("/proc/meminfo")
    lines = file.read_text().splitlines() if file.is_file() else ()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), 0)


@cache
def version(package: str) -> str:
    """The version of an installed package, read without importing it; `none` when it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"
