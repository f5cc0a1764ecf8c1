"""`ctx`: a node's only door to the outside - progress, cancellation, the device, files, and the graph it runs in."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

from graph_engine.codec import NotPlain, content_digest
from graph_engine.device import Device, HostDevice, open_device
from graph_engine.entry import Constant, NodeEntry
from graph_engine.errors import NodeError
from graph_engine.events import Artifact
from graph_engine.expansion import Expansion, expansion
from graph_engine.files import Folders
from graph_engine.keys import nonce
from graph_engine.record import Blocked
from graph_engine.saving import save_numbered
from graph_engine.walk import tensors

__all__ = ["Context", "GraphView", "Watch"]


class Watch(Protocol):
    """Who listens to a node while it runs."""

    def check(self) -> None:
        """Raise Cancelled when the run was asked to stop."""

    def step(self, step: int, steps: int, preview: Callable[[], bytes | None] | None) -> None:
        """Note progress; `preview` is called when somebody wants to see it."""


class GraphView(Protocol):
    """The graph as it stands while a node runs, with everything expanded so far."""

    def __getitem__(self, node: str) -> NodeEntry: ...
    def __contains__(self, node: object) -> bool: ...
    def scope(self, node: str) -> Collection[str]:
        """The nodes that stand beside a node: those of the workflow, or of the same part of one expansion."""

    def is_output(self, node: str) -> bool:
        """Whether a node has effects."""


class Context:
    """What `run` may use. Made by the executor for each call of a node, or by `Context.silent()` for a call by hand."""

    def __init__(
        self,
        *,
        node: str = "",
        title: str = "",
        folders: Folders | None = None,
        device: Callable[[], Device],
        workflow: Callable[[], Mapping[str, Any]] = dict,
        extra: Mapping[str, Any] | None = None,
        debug: bool = False,
        watch: Watch | None = None,
        graph: Callable[[], GraphView] | None = None,
    ) -> None:
        self.node, self.title, self.debug = node, title, debug
        self._workflow = workflow
        self.extra: Mapping[str, Any] = extra if extra is not None else {}  # what else was submitted with it
        self.artifacts: list[Artifact] = []
        self.ui: dict[str, Any] = {}
        self._folders, self._device, self._watch, self._graph = folders, device, watch, graph
        self._part = (0, 1)

    @classmethod
    def silent(
        cls,
        device: Device | None = None,
        folders: Folders | None = None,
        *,
        workflow: Mapping[str, Any] | None = None,
        extra: Mapping[str, Any] | None = None,
        debug: bool = False,
    ) -> Context:
        """A context that nobody listens to, so that any node can be called in a notebook or a test.

        Without a device, one is opened when the node first asks for it.
        """
        return cls(
            folders=folders,
            device=_once(device, open_device),
            workflow=lambda: workflow or {},
            extra=extra,
            debug=debug,
        )

    @property
    def workflow(self) -> Mapping[str, Any]:
        """JSON of the workflow as it was submitted; empty when it holds values that exist only in memory."""
        return self._workflow()

    @property
    def device(self) -> Any:
        """The Device where tensors are computed; nodes know its own type."""
        return self._device()

    @property
    def folders(self) -> Folders:
        """Where files are looked for. Raises NodeError in a silent context that was given none."""
        if self._folders is None:
            raise NodeError("this context has no folders; give it some: Context.silent(folders=Folders(base))")
        return self._folders

    @property
    def graph(self) -> GraphView:
        """The graph that the node runs in; what a node makes of it is part of its key. Raises NodeError in a silent context."""
        if self._graph is None:
            raise NodeError("this node looks at the graph around it, and a silent context has none")
        return self._graph()

    def check(self) -> None:
        """Raise Cancelled when the run was asked to stop."""
        if self._watch is not None:
            self._watch.check()

    def step(self, i: int, n: int, preview: Callable[[], bytes | None] | None = None) -> None:
        """Report that `i` of `n` steps are finished, and raise Cancelled when the run was asked to stop.

        `preview` makes a JPEG; it is called only when somebody wants to see one, a few times a second at most.
        """
        if self._watch is not None:
            self._watch.check()
            done, parts = self._part
            self._watch.step(done * n + i, parts * n, preview)

    def path(self, kind: str, name: str, embedded: Mapping[str, str] | None = None) -> Path:
        """The path of a file by kind and name. Raises NodeError when there is none."""
        return self.folders.resolve(kind, name, embedded)

    def rng(self, seed: int, index: int = 0) -> Any:
        """The random generator of a seed; `index` counts the samples of a batch that each have their own."""
        return self.device.generator((seed + index) % 2**64)

    def save(
        self,
        prefix: str,
        suffix: str,
        write: Callable[[BinaryIO], None],
        *,
        kind: Literal["output", "temp", "input"] = "output",
        media: str = "image/png",
        **substitutions: object,
    ) -> Artifact:
        """Write a numbered file `prefix_00001_.png`, whole or not at all; `write` fills it. See `save_numbered` for the prefix."""
        place = self.folders.places(kind)[0].absolute()
        path = save_numbered(place, prefix, suffix, write, substitutions)
        below = path.parent.relative_to(place.resolve()).as_posix()
        artifact = Artifact(path=str(path), filename=path.name, subfolder="" if below == "." else below, type=kind, media=media)
        self.artifacts.append(artifact)
        return artifact

    def show(self, **ui: Any) -> None:
        """Give the editor something to show with the node, as `text="..."`; several calls, and calls on lists, add up."""
        for name, value in ui.items():
            shown = self.ui.setdefault(name, [])
            shown.extend(value) if isinstance(value, (list, tuple)) else shown.append(value)

    def constant(self, value: Any) -> Constant:
        """A value as an input of a node in an expansion, known by its content."""
        if isinstance(value, Constant):
            return value
        # a digest moves nothing but bytes, so any device will do
        device = self._device() if _has_tensors(value) else HostDevice(0)
        try:
            return Constant(value, content_digest(value, device).hex())
        except NotPlain:
            return Constant(value, nonce().hex())

    def expand(self, graph: Any, outputs: Sequence[Any] | Any) -> Expansion:
        """What `run` returns to be replaced by other nodes.

        `graph` is a Graph, a Workflow or entries by local id; `outputs` says for each output of this node where it comes from: a handle or
        Link, a value, or a list of these. Nodes get ids `parent.local`; a link to any other id goes to the graph around.
        """
        return expansion(graph, outputs, self.constant)

    def blocked(self, reason: str = "") -> Any:
        """Given as an output that has no value here: nodes that need it do not run."""
        return Blocked(reason)

    def _call(self, index: int, of: int) -> None:
        """The calls that follow are one of several, for a node that is mapped over a list."""
        self._part = (index, of)


def _has_tensors(value: Any) -> bool:
    return next(tensors(value), None) is not None


def _once(device: Device | None, make: Callable[[], Device]) -> Callable[[], Device]:
    lock = threading.Lock()

    def get() -> Device:
        nonlocal device
        with lock:
            if device is None:
                device = make()
            return device

    return get
