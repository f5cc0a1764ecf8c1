"""One run as its client is told of it: engine events in, the editor's messages out, in the order that the editor and its SDKs expect."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from graph_engine.events import (
    Artifact,
    Event,
    NodeCached,
    NodeDone,
    NodeFailed,
    NodePreview,
    NodeProgress,
    NodeStarted,
    OfNode,
    RunDone,
    RunStarted,
)
from server.protocol.messages import Message, Preview
from server.protocol.progress import ProgressState
from server.runs import Run

__all__ = ["Story", "shown"]

_KEYS = {"image": "images", "audio": "audio", "video": "video", "model": "3d"}
Told = list[Message | Preview]


class Story:
    """Tells one run. `outputs`, `meta`, `messages` and `error` are what the history keeps of it, complete once RunDone was told.

    The engine goes on after a failure with what does not depend on it, while clients take `execution_error` for the end; so a failed node
    is marked at once and the error told last.
    """

    def __init__(self, run: Run) -> None:
        self._run, self._targets = run, frozenset(run.targets)
        self.outputs: dict[str, dict[str, Any]] = {}
        self.meta: dict[str, dict[str, Any]] = {}
        self.messages: list[list[Any]] = []
        self.error: dict[str, Any] | None = None
        self._progress = ProgressState(run.id)
        self._cached: list[NodeCached] = []  # not told yet
        self._counted = False  # execution_cached was told
        self._finished: dict[str, None] = {}
        self._had: dict[str, None] = {}  # cached
        self._failures: list[NodeFailed] = []
        self._stopped: NodeFailed | None = None
        self._shown: set[str] = set()  # editor nodes that show something of this run
        self._over = False

    def tell(self, event: Event) -> Sequence[Message | Preview]:
        """What the client is told of an event."""
        if self._over:
            return []
        if isinstance(event, NodeCached):
            self._cached.append(event)
            return self._begun(event.time)
        if isinstance(event, RunStarted):
            return self._begun(event.time)
        if not isinstance(event, (NodeStarted, NodeProgress, NodePreview, NodeDone, NodeFailed, RunDone)):
            return []
        told = [*self._begun(event.time), *self._catch_up(event.time)]
        match event:
            case NodeStarted():
                self._progress.begin(event.node, event.parent)
                told += [self._progress.message(event.time), self._say("executing", _where(event))]
            case NodeProgress():
                self._progress.advance(event.node, event.parent, event.step, event.steps)
                told += [self._progress.message(event.time), self._advanced(event)]
            case NodePreview():
                # a preview would hide the pictures of a node with effects
                if self._targets.isdisjoint((event.node, event.parent)):
                    told.append(_preview(event))
            case NodeDone():
                self._had.pop(event.node, None)
                self._finished[event.node] = None
                if output := shown(event.artifacts, event.ui):
                    told.append(self._executed(event, output))
                self._progress.finish(event.node, event.parent)
                told += _some(self._progress.ended(event.time))
            case NodeFailed(reason="cancelled"):
                self._stopped = event
                self._progress.drop(event.node)
            case NodeFailed():
                self._failures.append(event)
                if event.node:  # else the run itself failed
                    self._progress.fail(event.node, event.parent)
                    told.append(self._progress.message(event.time))
            case RunDone():
                told += self._end(event)
        return told

    def _begun(self, now: float) -> Told:
        if self.messages:
            return []
        return [self._note("execution_start", {}, now)]

    def _catch_up(self, now: float) -> Told:
        """The cached nodes since the last event, in one message; those that the editor shows tell what they made."""
        events, self._cached = self._cached, []
        if self._counted and not events:
            return []
        self._counted = True
        self._had.update(dict.fromkeys(event.node for event in events))
        told: Told = [self._note("execution_cached", {"nodes": [event.node for event in events]}, now)]
        for event in events:
            output = shown(event.artifacts, event.ui)
            if output or event.node in self._targets:
                told.append(self._executed(event, output or None))
                self._progress.finish(event.node, event.parent)
        return [*told, *_some(self._progress.message(now) if len(told) > 1 else None)]

    def _executed(self, event: NodeCached | NodeDone, output: dict[str, Any] | None) -> Message:
        data: dict[str, Any] = {**_where(event), "output": output}
        if output is not None:
            node, parent = event.node, event.parent
            self.outputs[node] = output
            expanded = None if node == parent else parent
            self.meta[node] = {"node_id": node, "display_node": parent, "parent_node": expanded, "real_node_id": parent}
            if expanded is not None and parent in self._shown:  # the turns of a loop add up at the node that stands for them
                data["merge"] = True
            self._shown.add(parent)
        return self._say("executed", data)

    def _advanced(self, event: NodeProgress) -> Message:
        data = {"value": event.step, "max": event.steps, "prompt_id": self._run.id, "node": event.node}
        return Message("progress", data, keep=False)

    def _end(self, event: RunDone) -> Told:
        self._over = True
        at = self._progress.running()
        told: Told = _some(self._progress.last(event.time))
        if event.status == "success":
            return [*told, self._note("execution_success", {}, event.time)]
        if event.status == "cancelled":
            return [*told, self._note("execution_interrupted", self._interrupted(event, at), event.time)]
        failed = self._note("execution_error", self._failed(event, at), event.time)
        self.error = failed.data
        return [*told, failed]

    def _interrupted(self, event: RunDone, at: list[str]) -> dict[str, Any]:
        stopped = self._stopped
        node = stopped.parent if stopped is not None else self._real(at)
        kind = stopped.class_type if stopped is not None else self._type(node)
        why = {"exception_message": event.message} if event.message else {}
        return {"node_id": node, "node_type": kind, "executed": list(self._finished), **why}

    def _failed(self, event: RunDone, at: list[str]) -> dict[str, Any]:
        known = {"executed": list(self._finished), "current_outputs": [*self._had, *self._finished]}
        if not self._failures:  # no node says why: its process died, or the engine itself failed
            node = self._real(at)
            message = event.message or "the run failed"
            more = {"exception_type": "RunFailed", "traceback": [], "current_inputs": {}}
            return {"node_id": node, "node_type": self._type(node), "exception_message": message, **more, **known}
        first = self._failures[0]
        data = {**_failure(first), **known, "traceback": list(first.traceback)}
        data["current_inputs"] = {name: [value] for name, value in first.inputs.items()}
        if len(self._failures) > 1:
            data["failures"] = [_failure(each) for each in self._failures]  # ours: clients know of one only
        return data

    def _real(self, running: list[str]) -> str:
        """The node of the workflow that runs, or ran last; expanded nodes are called `parent.…`."""
        for node in reversed(running):
            while node and node not in self._run.document:
                node = node.rpartition(".")[0]
            if node:
                return node
        return ""

    def _type(self, node: str) -> str:
        entry = self._run.document.get(node)
        return str(entry.get("class_type", "")) if isinstance(entry, dict) else ""

    def _say(self, type: str, data: dict[str, Any]) -> Message:
        return Message(type, {**data, "prompt_id": self._run.id})

    def _note(self, type: str, data: dict[str, Any], now: float) -> Message:
        """A message that the history lists."""
        message = Message(type, {**data, "prompt_id": self._run.id, "timestamp": int((now or time.time()) * 1000)})
        self.messages.append([type, message.data])
        return message


def shown(artifacts: Sequence[Artifact], ui: Mapping[str, Any]) -> dict[str, Any]:
    """What the editor shows of a node: its files by kind (`images`, `audio`, …), and what it gave to `ctx.show`."""
    output: dict[str, Any] = {}
    for artifact in artifacts:
        key = "latents" if artifact.filename.endswith(".latent") else _KEYS.get(artifact.media.partition("/")[0], "files")
        item = {"filename": artifact.filename, "subfolder": artifact.subfolder, "type": artifact.type}
        output.setdefault(key, []).append(item)
    for name, value in ui.items():
        before = output.get(name)
        output[name] = [*before, *(value if isinstance(value, list) else [value])] if before else value
    return output


def _where(event: OfNode) -> dict[str, Any]:
    return {"node": event.node, "display_node": event.parent}


def _preview(event: NodePreview) -> Preview:
    parent = None if event.node == event.parent else event.parent
    return Preview(event.run, event.node, event.parent, parent, event.parent, event.media, event.data)


def _failure(event: NodeFailed) -> dict[str, Any]:
    message = event.message
    if event.reason == "oom":
        held = ", ".join(f"{each.owner} {each.bytes / 1e6:,.0f} MB" for each in event.residents)
        message += "\nThe device is out of memory" + (f"; it holds {held}." if held else ".")
    return {
        "node_id": event.parent,
        "node_type": event.class_type,
        "exception_message": message,
        "exception_type": event.exception or "Error",
    }


def _some(message: Message | None) -> list[Message | Preview]:
    return [] if message is None else [message]
