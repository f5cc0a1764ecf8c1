"""What a run gave: values of any output by name, files, failures, and which nodes ran."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from graph_engine.errors import Cancelled, NodeError, WorkflowError
from graph_engine.events import Artifact, NodeFailed

if TYPE_CHECKING:
    from graph_engine.cache import Cache
    from graph_engine.spec import NodeSpec
    from graph_engine.task import Task
    from graph_engine.workflow import Workflow

__all__ = ["Result", "Step"]


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended. `executed` and `cached` are node ids; expanded nodes count too."""

    run: str
    status: Literal["success", "error", "cancelled"]
    failures: tuple[NodeFailed, ...]
    executed: tuple[str, ...]
    cached: tuple[str, ...]
    artifacts: tuple[Artifact, ...]
    seconds: float
    _workflow: Workflow = field(repr=False)
    _types: Mapping[str, NodeSpec] = field(repr=False)  # of every node that finished, by id
    _keys: Mapping[str, bytes] = field(repr=False)
    _values: Mapping[str, tuple[Any, ...]] = field(repr=False)
    _cache: Cache = field(repr=False)

    def raise_for_error(self) -> None:
        """Raise NodeError when a node failed, Cancelled when the run was cancelled."""
        if self.failures:
            lines = [f"node {each.node} ({each.title}): {each.message}" for each in self.failures]
            raise NodeError("\n".join(lines))
        if self.status == "cancelled":
            raise Cancelled("the run was cancelled")

    def value(self, node: str, output: int | str = 0) -> Any:
        """The value of an output of a node, given by id or title.

        Raises KeyError when there is no such node or output, NodeError when the node did not finish or its value was let go of.
        """
        return pick(self._types[id := self._find(node)], self._outputs(id), output)

    def values(self, node: str) -> dict[str, Any]:
        """All outputs of a node by name; see `value`."""
        id = self._find(node)
        return dict(zip([each.name for each in self._types[id].outputs], self._outputs(id), strict=True))

    def __getitem__(self, address: str) -> Any:
        """The value at `node.output`, or at `node` for its first output."""
        try:
            return self.value(address)
        except KeyError:
            node, dot, output = address.rpartition(".")
            if not dot:
                raise
        return self.value(node, int(output) if output.isdecimal() else output)

    def _find(self, node: str) -> str:
        if node in self._types:
            return node
        try:
            id = self._workflow.find(node)
        except WorkflowError as error:
            raise KeyError(str(error)) from None
        if id not in self._types:
            failed = next((each for each in self.failures if each.node == id), None)
            why = f"failed: {failed.message}" if failed else "was not reached, or not needed for what was wanted"
            raise NodeError(f"node {id} ({self._workflow.nodes[id].label}) {why}")
        return id

    def _outputs(self, id: str) -> tuple[Any, ...]:
        found = self._values.get(id)
        if found is None:
            found = self._cache.get(self._keys[id])
        if found is None:
            raise NodeError(f"the value of node {id} was let go of to save memory; run with wanted=[{id!r}] to keep it")
        return found


@dataclass(frozen=True, slots=True)
class Step:
    """A node that has just been dealt with, in a run step by step."""

    node: str
    title: str
    class_type: str
    cached: bool
    seconds: float
    failure: NodeFailed | None
    _spec: NodeSpec = field(repr=False)
    _key: bytes = field(repr=False)
    _outputs: tuple[Any, ...] | None = field(repr=False)
    _cache: Cache = field(repr=False)

    @classmethod
    def of(cls, task: Task, outputs: tuple[Any, ...] | None, failure: NodeFailed | None, cache: Cache) -> Step:
        cached = outputs is None and failure is None
        seconds = 0.0 if cached else task.own_seconds
        spec = task.spec
        return cls(task.id, task.title, spec.type, cached, seconds, failure, spec, task.key, outputs, cache)

    def value(self, output: int | str = 0) -> Any:
        """The value of an output. Raises NodeError when the node failed or the value was let go of, KeyError for an unknown output."""
        if self.failure is not None:
            raise NodeError(self.failure.message)
        found = self._outputs if self._outputs is not None else self._cache.get(self._key)
        if found is None:
            raise NodeError(f"the value of node {self.node} was let go of to save memory; nothing needs it any more")
        return pick(self._spec, found, output)

    def values(self) -> dict[str, Any]:
        """All outputs by name."""
        return {output.name: self.value(i) for i, output in enumerate(self._spec.outputs)}


def pick(spec: NodeSpec, outputs: tuple[Any, ...], output: int | str) -> Any:
    """One of the outputs, by position or name."""
    index = spec.output_index(output)
    if index is None:
        names = ", ".join(each.name for each in spec.outputs) or "none"
        raise KeyError(f"{spec.type} has no output {output!r}; outputs: {names}")
    return outputs[index]
