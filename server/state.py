"""What the routes of one server share."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from graph_engine import Folders, NodeSpec
from graph_engine.editor.definitions import Definitions
from server.hub import Hub
from server.journal import Journal
from server.logs import Recent
from server.metrics import Metrics
from server.settings import ServerSettings
from server.workers import Dispatcher

__all__ = ["ServerState"]


@dataclass(frozen=True)
class ServerState:
    """Reached in a route as `request.app.state.server`."""

    settings: ServerSettings
    folders: Folders
    specs: Mapping[str, NodeSpec]
    journal: Journal
    dispatcher: Dispatcher
    hub: Hub
    metrics: Metrics
    logs: Recent
    started: float = field(default_factory=time.time)  # seconds since the epoch

    @cached_property
    def definitions(self) -> Definitions:
        """What the editor is told about the node types."""
        return Definitions(self.specs, self.folders)
