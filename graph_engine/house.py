"""What the runs of one engine share, and what a run leaves behind."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from graph_engine.cache import Cache
from graph_engine.device import Device
from graph_engine.digests import Digests
from graph_engine.events import Artifact, NodeFailed
from graph_engine.files import Folders
from graph_engine.registry import Registry
from graph_engine.spec import NodeSpec

if TYPE_CHECKING:
    from graph_engine.task import Task

__all__ = ["Finished", "House", "Status"]

Status = Literal["success", "error", "cancelled"]
_CHEAP = 0.002  # seconds below which handing a node to another thread costs more than it saves


@dataclass
class House:
    """The nodes, the device, the cache and the files of an engine."""

    registry: Registry
    device: Device
    cache: Cache
    folders: Folders | None
    digests: Digests
    debug: bool = False
    device_lock: threading.Lock = field(default_factory=threading.Lock)  # one node at a time works on the device
    _seconds: dict[str, float] = field(default_factory=dict)

    def timed(self, task: Task, seconds: float) -> None:
        """Note how long a node of this type took."""
        self._seconds[task.spec.type] = seconds

    def worth_a_thread(self, task: Task) -> bool:
        """Whether a node is worth running beside the device's work: unknown until it has run once."""
        return self._seconds.get(task.spec.type, _CHEAP) >= _CHEAP


@dataclass(frozen=True, slots=True)
class Finished:
    """How a run ended, and where its results are."""

    status: Status
    failures: tuple[NodeFailed, ...] = ()
    executed: tuple[str, ...] = ()
    cached: tuple[str, ...] = ()
    artifacts: tuple[Artifact, ...] = ()
    seconds: float = 0.0
    types: dict[str, NodeSpec] = field(default_factory=dict)  # of the nodes that finished
    keys: dict[str, bytes] = field(default_factory=dict)
    values: dict[str, tuple[Any, ...]] = field(default_factory=dict)  # of the nodes that were asked for
