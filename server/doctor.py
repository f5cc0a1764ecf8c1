"""What is installed and found on this machine, and what is broken."""

from __future__ import annotations

import platform
import shutil
from importlib import metadata

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from graph_engine import Folders, Registry
from graph_engine.device import open_device
from server.settings import Settings

__all__ = ["examine"]

PACKAGES = ("latentgraph", "torch", "diffusers", "transformers", "safetensors", "networkx", "pydantic", "pillow", "websockets")
MODEL_FOLDERS = (
    "checkpoints",
    "loras",
    "vae",
    "text_encoders",
    "controlnet",
    "clip_vision",
    "ipadapter",
    "embeddings",
    "diffusion_models",
    "upscale_models",
)


def examine(console: Console, settings: Settings, folders: Folders) -> int:
    """Print the report; 0 when all is well, 1 when a package is missing, broken or no device opens."""
    registry = Registry.discover()
    registry = Registry.discover()
    broken = _versions(console) + _devices(console, settings)
    broken += [f"node package {found.name}: {found.error}" for found in registry.broken]
    _models(console, settings, folders, registry)
    for problem in broken:
        console.print(f"[red]✗[/] {escape(problem)}", highlight=False, soft_wrap=True)
    if not broken:
        console.print("[green]✓[/] all well")
    return 1 if broken else 0


def _versions(console: Console) -> list[str]:
    table, missing = Table(box=None, pad_edge=False, show_header=False), []
    table.add_row("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for name in PACKAGES:
        try:
            table.add_row(name, metadata.version(name))
        except metadata.PackageNotFoundError:
            missing.append(f"{name} is not installed")
    console.print(table)
    return missing


def _devices(console: Console, settings: Settings) -> list[str]:
    problems = []
    table = Table("device", "budget", "environment", box=None, pad_edge=False)
    for name in dict.fromkeys((settings.device, "cpu")):
        try:
            device = open_device(name)
        except (RuntimeError, ValueError, ImportError) as error:
            problems.append(f"device {name}: {error}")
            continue
        table.add_row(f"{name} → {device.name}" if name != device.name else name, f"{device.budget / 2**30:.1f} GiB", device.environment)
    console.print()
    console.print(table)
    return problems


def _models(console: Console, settings: Settings, folders: Folders, registry: Registry) -> None:
    table = Table("models", "found", box=None, pad_edge=False)
    inputs = [entry for spec in registry.specs.values() for entry in spec.inputs]
    embedded = {entry.folder: entry.embedded for entry in inputs if entry.embedded}
    for kind in MODEL_FOLDERS:
        names = [*embedded.get(kind, {}), *folders.list(kind)]
        table.add_row(kind, escape(", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")) or "[dim]none[/]")
    console.print()
    console.print(table)
    free = shutil.disk_usage(settings.home).free
    console.print(f"\n{len(registry.specs)} node types", highlight=False)
    console.print(f"home {escape(str(settings.home))}, {free / 2**30:.0f} GiB free", highlight=False, soft_wrap=True)
