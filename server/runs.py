"""What the server knows of a run: as it was submitted, and as the journal keeps it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["FINISHED", "NewRun", "Run", "Status"]

Status = Literal["pending", "running", "success", "error", "interrupted"]
FINISHED: frozenset[Status] = frozenset({"success", "error", "interrupted"})

_LAZY = frozenset({"document", "targets", "extra", "outputs", "meta", "messages", "error"})


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to be queued. `document` is API JSON, `targets` the ids of the wanted outputs, `extra` the client's data without secrets.

    A lower `number` runs first; without one it is the journal's running counter, negated with `front`.
    """

    id: str
    document: dict[str, Any]
    targets: tuple[str, ...]
    extra: dict[str, Any] = field(default_factory=dict)
    client: str = ""
    front: bool = False
    number: float | None = None


@dataclass(slots=True)
class Run:
    """A run as the journal has it; times are milliseconds since the epoch.

    `outputs`, `meta`, `messages` and `error` are filled when it has finished. One that was taken out of the queue before it began is
    `interrupted` and has no `started`. The large fields of a run that the journal gave are read when first asked for; they are empty when
    it was forgotten in between.
    """

    id: str
    number: float
    status: Status
    document: dict[str, Any]
    targets: tuple[str, ...]
    extra: dict[str, Any]
    client: str
    created: int
    started: int | None = None
    finished: int | None = None
    worker: str | None = None
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)  # by node, as in the history
    meta: dict[str, dict[str, Any]] = field(default_factory=dict)
    messages: list[list[Any]] = field(default_factory=list)  # [type, data] of what the client was told
    error: dict[str, Any] | None = None  # the data of its execution_error
    attempts: int = 0  # how often it was given to a worker
    workflow: str | None = None  # the id of the editor graph that it was queued from
    _read: Callable[[str], str] | None = field(default=None, repr=False, compare=False)  # the JSON of a large field

    @property
    def workflow_id(self) -> str | None:
        """The id of the editor graph that it was queued from."""
        return self.workflow if self.workflow is not None or self._read is not None else workflow_id(self.extra)

    @classmethod
    def lazy(
        cls,
        id: str,
        number: float,
        status: Status,
        client: str,
        created: int,
        started: int | None,
        finished: int | None,
        worker: str | None,
        attempts: int,
        workflow: str | None,
        read: Callable[[str], str],
    ) -> Run:
        """A run whose large fields `read` gives as JSON when they are asked for."""
        run = cls.__new__(cls)
        run.id, run.number, run.status, run.client, run.created = id, number, status, client, created
        run.started, run.finished, run.worker, run.attempts, run.workflow = started, finished, worker, attempts, workflow
        run._read = read
        return run

    def text(self, name: str) -> str:
        """A large field as JSON, without decoding it where that can be avoided."""
        return json.dumps(getattr(self, name)) if self._read is None else self._read(name)

    def __getattr__(self, name: str) -> Any:
        # reached only for a field that is not set yet
        if name not in _LAZY:
            raise AttributeError(f"a run has no {name!r}")
        value = json.loads(self._read(name)) if self._read is not None else None
        if name == "targets" and value is not None:
            value = tuple(value)
        setattr(self, name, value)
        return value


def workflow_id(extra: dict[str, Any]) -> str | None:
    """The id of the editor graph in the extra data of a run."""
    info = extra.get("extra_pnginfo")
    workflow = info.get("workflow") if isinstance(info, dict) else None
    id = workflow.get("id") if isinstance(workflow, dict) else None
    return id.encode("utf-8", "replace").decode() if isinstance(id, str) else None
