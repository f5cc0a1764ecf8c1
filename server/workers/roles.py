"""What the dispatcher needs of others, and how a worker is set up and looked at."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from graph_engine.events import Event
from server.protocol.messages import Message, Preview

__all__ = ["Audience", "Condition", "Teller", "WorkerOptions", "WorkerState"]

Condition = Literal["starting", "idle", "running", "dead"]


class Audience(Protocol):
    """Those who watch: neither call blocks, and neither raises."""

    def send(self, client: str, run_id: str, messages: Sequence[Message | Preview]) -> None:
        """Journal the messages that are to be kept, and put all of them into the outbox of the client.

        Called inside a transaction of the journal, so nothing may leave before the event loop goes on.
        """

    def queue_changed(self, remaining: int) -> None:
        """So many runs are pending or running now."""


class Teller(Protocol):
    """The story of one run: engine events in, messages out; after RunDone the attributes are what the history needs.

    A run that ends outside the engine comes as the same events: NodeFailed with the node that was running (or an empty one), then RunDone.
    """

    @property
    def outputs(self) -> dict[str, dict[str, Any]]: ...
    @property
    def meta(self) -> dict[str, dict[str, Any]]: ...
    @property
    def messages(self) -> list[list[Any]]: ...
    @property
    def error(self) -> dict[str, Any] | None: ...

    def tell(self, event: Event) -> Sequence[Message | Preview]: ...


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """How worker processes are set up. With `plain` they have only the nodes of `nodes`, on the plain host."""

    home: Path
    folders: Mapping[str, Sequence[str | Path]] = field(default_factory=dict)
    cache_dir: Path | None = None
    cache_bytes: int | None = None
    nodes: tuple[str, ...] = ()
    plain: bool = False

    def arguments(self, device: str, index: int) -> list[str]:
        """The command line of the worker on a device; each keeps its results on disk in a folder of its own."""
        given = ["--device", device, "--home", str(self.home)]
        if self.folders:
            given += ["--folders", json.dumps({kind: [str(place) for place in places] for kind, places in self.folders.items()})]
        if self.cache_dir is not None:
            given += ["--cache-dir", str(self.cache_dir if index == 0 else self.cache_dir / f"worker-{index}")]
        if self.cache_bytes is not None:
            given += ["--cache-bytes", str(self.cache_bytes)]
        for module in self.nodes:
            given += ["--nodes", module]
        return [*given, "--plain"] if self.plain else given


@dataclass(slots=True)
class WorkerState:
    """A worker as one can look at it; sizes in bytes.

    `facts` are those of graph_engine.device.DeviceFacts, `residents` who holds what of the device, `resident` the memory of the process.
    """

    name: str
    device: str
    state: Condition = "starting"
    pid: int | None = None
    restarts: int = 0
    run: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    budget: int = 0
    used: int = 0
    residents: tuple[tuple[str, int], ...] = ()
    resident: int | None = None
    broken: tuple[str, ...] = ()  # node packages that could not be loaded
    error: str = ""  # why it died last
