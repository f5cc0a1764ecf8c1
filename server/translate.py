"""What a server tells of a run, as the events that the engine itself would have sent; so a remote run looks like one on this machine."""

from __future__ import annotations

import mimetypes
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from graph_engine.events import (
    Artifact,
    Event,
    NodeCached,
    NodeDone,
    NodeFailed,
    NodeProgress,
    NodeStarted,
    RunDone,
    RunStarted,
)

__all__ = ["Translation", "files_in"]

_STATUS: dict[str, Literal["success", "error", "cancelled"]] = {
    "execution_success": "success",
    "execution_error": "error",
    "execution_interrupted": "cancelled",
}


class Translation:
    """The story of one run of `document`. `sinks` are its nodes with effects, which tell what they wrote also when they are cached.

    `paths` says where the files that the run wrote are on this machine, by (filename, subfolder, type); put them in before `hear`.
    """

    def __init__(self, run: str, document: Mapping[str, Any], sinks: Collection[str] = ()) -> None:
        self.run, self.document, self.sinks = run, document, sinks
        self.paths: dict[tuple[str, str, str], Path] = {}
        self.status: Literal["success", "error", "cancelled"] | None = None  # once it is known
        self.failures: list[NodeFailed] = []
        self._seq, self._began = 0, time.perf_counter()
        self._started: dict[str, float] = {}
        self._steps: dict[str, int] = {}
        self._done: set[str] = set()
        self._cached: dict[str, None] = {}
        self._fresh: list[str] = []  # cached nodes of the message before
        self._told: set[str] = set()  # cached nodes that were shown
        self._artifacts: dict[str, Artifact] = {}

    def hear(self, message: Mapping[str, Any]) -> list[Event]:
        """The events that a message amounts to, in order."""
        kind, data = message["type"], message["data"]
        return [*(() if kind == "executed" else self._recall_silent()), *self._events(kind, data)]

    def _events(self, kind: str, data: Mapping[str, Any]) -> Iterator[Event]:
        match kind:
            case "execution_start" if not self._seq:
                self._began = time.perf_counter()
                titles = {id: (node.get("_meta") or {}).get("title") or node["class_type"] for id, node in self.document.items()}
                yield RunStarted(nodes=tuple(self.document), titles=titles, **self._base())
            case "execution_cached":
                self._fresh = [*map(str, data.get("nodes", ()))]
                self._cached.update(dict.fromkeys(self._fresh))
            case "executing" if data.get("node") is not None:
                yield from self._start(str(data["node"]), str(data.get("display_node") or data["node"]))
            case "executing":
                yield from self._end()
            case "progress" if data.get("node") is not None:
                yield from self._advance(str(data["node"]), int(data["value"]), int(data["max"]))
            case "progress_state":
                yield from self._states(data.get("nodes") or {})
            case "executed":
                yield from self._executed(str(data["node"]), str(data.get("display_node") or data["node"]), data.get("output"))
            case "execution_error":
                self.status = self.status or _STATUS[kind]
                several = data.get("failures")
                for each in several[1:] if isinstance(several, list) else ():
                    yield from self._fail(each)
                yield from self._fail(data)
            case "execution_success" | "execution_interrupted":
                self.status = self.status or _STATUS[kind]

    def _base(self) -> dict[str, Any]:
        self._seq += 1
        return {"run": self.run, "seq": self._seq, "time": time.time()}

    def _start(self, node: str, parent: str) -> Iterator[Event]:
        if node not in self._started and node not in self._done:
            self._started[node] = time.perf_counter()
            yield NodeStarted(node=node, parent=parent, **self._base())

    def _advance(self, node: str, step: int, steps: int) -> Iterator[Event]:
        if node in self._started and node not in self._done and step > self._steps.get(node, 0):
            self._steps[node] = step
            spent = time.perf_counter() - self._started[node]
            yield NodeProgress(node=node, parent=node, step=step, steps=steps, rate=step / spent if spent > 0 else None, **self._base())

    def _states(self, nodes: Mapping[str, Any]) -> Iterator[Event]:
        for id, state in nodes.items():
            parent = str(state.get("display_node_id") or id)
            if state.get("state") == "running" and state.get("max", 1) > 1:
                yield from self._start(id, parent)
                yield from self._advance(id, int(state["value"]), int(state["max"]))
            elif state.get("state") == "finished" and id in self._started:
                yield from self._finish(id, parent, None)

    def _executed(self, node: str, parent: str, output: object) -> Iterator[Event]:
        if node in self._cached:
            yield from self._recall(node, output)
        else:
            yield from self._start(node, parent)
            yield from self._finish(node, parent, output)

    def _recall_silent(self) -> Iterator[Event]:
        """Cached nodes that have nothing to show; what they have comes right after they were named, except for sinks of some servers."""
        fresh, self._fresh = self._fresh, []
        for node in fresh:
            if node not in self.sinks:
                yield from self._recall(node, None)

    def _recall(self, node: str, output: object) -> Iterator[Event]:
        if node not in self._told:
            self._told.add(node)
            ui, artifacts = self._written(output)
            yield NodeCached(node=node, parent=node, ui=ui, artifacts=artifacts, **self._base())

    def _finish(self, node: str, parent: str, output: object) -> Iterator[Event]:
        if node not in self._done:
            self._done.add(node)
            ui, artifacts = self._written(output)
            spent = time.perf_counter() - self._started[node]
            yield NodeDone(node=node, parent=parent, seconds=spent, bytes=0, ui=ui, artifacts=artifacts, **self._base())

    def _fail(self, data: Mapping[str, Any]) -> Iterator[Event]:
        node = str(data.get("node_id") or "")
        self._done.add(node)
        title = (self.document.get(node, {}).get("_meta") or {}).get("title") or data.get("node_type") or "server"
        inputs = {str(name): _short(value) for name, value in (data.get("current_inputs") or {}).items()}
        failure = NodeFailed(
            node=node,
            parent=node,
            reason="error",
            title=title,
            class_type=str(data.get("node_type") or ""),
            message=str(data.get("exception_message") or ""),
            exception=str(data.get("exception_type") or ""),
            traceback=tuple(map(str, data.get("traceback") or ())),
            inputs=inputs,
            **self._base(),
        )
        self.failures.append(failure)
        yield failure

    def _end(self) -> Iterator[Event]:
        if self.status == "success":
            for node in [*self._started]:  # those whose end fell between two snapshots of the progress
                yield from self._finish(node, node, None)
        for node in self._cached:
            yield from self._recall(node, None)
        yield RunDone(
            status=self.status or "error",
            seconds=time.perf_counter() - self._began,
            executed=len(self._done & self._started.keys()),
            cached=len(self._cached),
            artifacts=tuple(self._artifacts.values()),
            **self._base(),
        )

    def _written(self, output: object) -> tuple[dict[str, Any], tuple[Artifact, ...]]:
        found = []
        for item in files_in(output):
            where = (item["filename"], item.get("subfolder", ""), item.get("type", "output"))
            path = str(self.paths.get(where, "/".join(part for part in (where[2], where[1], where[0]) if part)))
            media = mimetypes.guess_type(where[0])[0] or "application/octet-stream"
            found.append(
                Artifact.model_validate({"path": path, "filename": where[0], "subfolder": where[1], "type": where[2], "media": media})
            )
            self._artifacts[path] = found[-1]
        ui = {name: part for name, part in output.items() if name != "images"} if isinstance(output, dict) else {}
        return ui, tuple(found)


def files_in(output: object) -> Iterator[dict[str, str]]:
    """The files that an `executed` message names: {"filename", "subfolder", "type"}."""
    for part in output.values() if isinstance(output, dict) else ():
        for item in part if isinstance(part, list) else ():
            if isinstance(item, dict) and isinstance(item.get("filename"), str):
                yield item


def _short(value: object) -> str:
    text = str(value[0] if isinstance(value, list) and len(value) == 1 else value)
    return text if len(text) <= 200 else text[:199] + "…"
