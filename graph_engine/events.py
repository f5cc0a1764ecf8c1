"""Everything that happens during a run, as one typed stream; the terminal, the journal and the sockets all read it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

__all__ = [
    "Artifact",
    "Event",
    "MemoryReport",
    "NodeCached",
    "NodeDone",
    "NodeExpanded",
    "NodeFailed",
    "NodePreview",
    "NodeProgress",
    "NodeStarted",
    "Resident",
    "RunDone",
    "RunQueued",
    "RunStarted",
    "event_from_json",
]


class Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class Artifact(Record):
    """A file that a node wrote: `path` is absolute, `filename` and `subfolder` are relative to the folder of its `type`."""

    path: str
    filename: str
    subfolder: str = ""
    type: Literal["output", "temp", "input"] = "output"
    media: str = "application/octet-stream"


class Resident(Record):
    """One holder of device or host memory."""

    owner: str
    place: str
    bytes: int


class Base(Record):
    run: str
    seq: int = 0  # monotone within a run; given by the executor
    time: float = 0.0  # seconds since the epoch


class RunQueued(Base):
    kind: Literal["run_queued"] = "run_queued"


class RunStarted(Base):
    """`nodes` are those that the wanted outputs need, in a valid order; `titles` names them for people."""

    kind: Literal["run_started"] = "run_started"
    nodes: tuple[str, ...]
    titles: dict[str, str]


class OfNode(Base):
    """`parent` is the node of the workflow that a run-time expansion came from, else the node itself."""

    node: str
    parent: str


class NodeCached(OfNode):
    kind: Literal["node_cached"] = "node_cached"
    artifacts: tuple[Artifact, ...] = ()
    ui: dict[str, Any] = {}


class NodeStarted(OfNode):
    kind: Literal["node_started"] = "node_started"


class NodeProgress(OfNode):
    """Step `step` of `steps` is finished; `rate` is steps per second since the node started."""

    kind: Literal["node_progress"] = "node_progress"
    step: int
    steps: int
    rate: float | None = None


class NodePreview(OfNode):
    kind: Literal["node_preview"] = "node_preview"
    media: str = "image/jpeg"
    data: bytes = Field(repr=False)

    model_config = ConfigDict(frozen=True, ser_json_bytes="base64", val_json_bytes="base64")


class NodeExpanded(OfNode):
    """The node was replaced by `nodes` at run time."""

    kind: Literal["node_expanded"] = "node_expanded"
    nodes: tuple[str, ...]
    titles: dict[str, str] = {}


class NodeDone(OfNode):
    kind: Literal["node_done"] = "node_done"
    seconds: float
    bytes: int
    artifacts: tuple[Artifact, ...] = ()
    ui: dict[str, Any] = {}


class NodeFailed(OfNode):
    kind: Literal["node_failed"] = "node_failed"
    reason: Literal["error", "oom", "cancelled", "mutation"]
    title: str
    class_type: str
    message: str
    exception: str = ""
    traceback: tuple[str, ...] = ()
    inputs: dict[str, str] = {}  # a short summary of each
    residents: tuple[Resident, ...] = ()


class MemoryReport(Base):
    kind: Literal["memory_report"] = "memory_report"
    device: str
    budget: int
    used: int
    residents: tuple[Resident, ...]


class RunDone(Base):
    kind: Literal["run_done"] = "run_done"
    status: Literal["success", "error", "cancelled"]
    seconds: float
    executed: int
    cached: int
    artifacts: tuple[Artifact, ...] = ()
    message: str = ""


Event = Annotated[
    RunQueued
    | RunStarted
    | NodeCached
    | NodeStarted
    | NodeProgress
    | NodePreview
    | NodeExpanded
    | NodeDone
    | NodeFailed
    | MemoryReport
    | RunDone,
    Field(discriminator="kind"),
]

_EVENT: TypeAdapter[Event] = TypeAdapter(Event)


def event_from_json(text: str | bytes) -> Event:
    """Read one event as `model_dump_json` wrote it."""
    return _EVENT.validate_json(text)
