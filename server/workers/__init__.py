"""Worker processes and the dispatcher that gives them runs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from server.workers.dispatcher import Dispatcher
    from server.workers.roles import Audience, Teller, WorkerOptions, WorkerState

__all__ = ["Audience", "Dispatcher", "Teller", "WorkerOptions", "WorkerState"]


def __getattr__(name: str) -> Any:
    # when first asked for: the worker process, which imports this package too, needs no dispatcher
    if name not in __all__:
        raise AttributeError(f"module 'server.workers' has no attribute {name!r}")
    return getattr(importlib.import_module(f"server.workers.{'dispatcher' if name == 'Dispatcher' else 'roles'}"), name)
