"""`progress_state`: what every node of a run is at, told in full while that is little, else so that the bytes stay linear in the nodes."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

from server.protocol.messages import Message

__all__ = ["ProgressState"]

_SMALL = 32  # nodes that are always told in full
_GROWTH = 4  # of more, everything is told again when one in so many has changed
_SECONDS = 0.1  # until the end of a node is told although no other has begun


class ProgressState:
    """The nodes of one run that are not pending.

    The editor replaces what it knows by each message. A large message is therefore sent only when a fixed share of it is new, which bounds
    the sum by a constant for each node; in between only nodes that run or have just changed are told.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._nodes: dict[str, dict[str, Any]] = {}
        self._live: dict[str, None] = {}  # running
        self._fresh: dict[str, None] = {}  # changed since the last message
        self._unseen: dict[str, None] = {}  # changed since everything was told
        self._told = 0.0

    def begin(self, node: str, parent: str) -> None:
        """A node runs."""
        self._set(node, parent, 0, 1, "running")

    def advance(self, node: str, parent: str, value: int, maximum: int) -> None:
        """A running node has got on."""
        self._set(node, parent, value, maximum, "running")

    def finish(self, node: str, parent: str) -> None:
        """A node has what it should make."""
        maximum = self._nodes.get(node, {}).get("max", 1)
        self._set(node, parent, maximum, maximum, "finished")

    def fail(self, node: str, parent: str) -> None:
        """A node failed."""
        before = self._nodes.get(node, {})
        self._set(node, parent, before.get("value", 0), before.get("max", 1), "error")

    def drop(self, node: str) -> None:
        """A node is pending again: stopped, or never to be finished."""
        if self._nodes.pop(node, None) is not None:
            for each in (self._live, self._fresh, self._unseen):
                each.pop(node, None)
            self._unseen[""] = None  # that something is gone is told by telling everything

    def running(self) -> list[str]:
        """The nodes that run, in the order they began."""
        return list(self._live)

    def message(self, now: float) -> Message:
        """What to tell now."""
        if len(self._nodes) <= _SMALL or len(self._unseen) * _GROWTH >= len(self._nodes):
            return self._tell(self._nodes, now)
        newest = list(islice(reversed(self._live), _SMALL))
        return self._tell({**dict.fromkeys(reversed(newest)), **self._fresh}, now)

    def ended(self, now: float) -> Message | None:
        """What to tell when a node has ended; of many nodes the next beginning will tell it soon enough."""
        return None if len(self._nodes) > _SMALL and now - self._told < _SECONDS else self.message(now)

    def last(self, now: float) -> Message | None:
        """Everything, at the end of the run, unless it was told."""
        for node in self.running():
            self.drop(node)
        return self._tell(self._nodes, now) if self._unseen else None

    def _set(self, node: str, parent: str, value: int, maximum: int, state: str) -> None:
        before = self._nodes.get(node)
        if before is not None and before["state"] == state:
            before["value"], before["max"] = value, maximum
        else:
            self._nodes[node] = {
                "value": value,
                "max": maximum,
                "state": state,
                "node_id": node,
                "prompt_id": self._run,
                "display_node_id": parent,
                "parent_node_id": None if node == parent else parent,
                "real_node_id": parent,
            }
            if state == "running":
                self._live[node] = None
            else:
                self._live.pop(node, None)
        self._fresh[node] = self._unseen[node] = None

    def _tell(self, nodes: Iterable[str], now: float) -> Message:
        told = {node: dict(self._nodes[node]) for node in nodes}
        self._fresh.clear()
        if len(told) == len(self._nodes):
            self._unseen.clear()
        self._told = now
        return Message("progress_state", {"prompt_id": self._run, "nodes": told}, keep=False)
