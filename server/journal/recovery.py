"""What is said about a run that the server did not see to its end."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from server.runs import Run

__all__ = ["LastWords", "Verdict", "last_words"]

_ATTEMPTS = 3  # a run that took the server with it so often is not tried again


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of runs that a crash interrupted."""

    requeue: bool = False
    reason: str = "the server stopped while this ran"

    def again(self, run: Run) -> bool:
        """Whether this one waits again."""
        return self.requeue and run.attempts < _ATTEMPTS


@dataclass(slots=True)
class LastWords:
    """The history of an interrupted run as far as it was told, and what remains to be told."""

    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    meta: dict[str, dict[str, Any]] = field(default_factory=dict)
    messages: list[list[Any]] = field(default_factory=list)
    told: list[tuple[str, dict[str, Any]]] = field(default_factory=list)


def last_words(run: Run, events: Sequence[tuple[str, str]], reason: str) -> LastWords:
    """Rebuild from the events that were told what the history needs, and end the story."""
    words, executed, node = LastWords(), dict[str, None](), ""
    for kind, text in events:
        data = json.loads(text)
        if kind.startswith("execution_"):
            words.messages.append([kind, data])
        elif kind == "executing" and data.get("node"):
            node = str(data["node"])
            executed[node] = None
        elif kind == "executed":
            id = str(data.get("node"))
            executed[id] = None
            if isinstance(data.get("output"), dict):
                display = str(data.get("display_node") or id)
                words.outputs[id] = data["output"]
                words.meta[id] = {"node_id": id, "display_node": display, "parent_node": None, "real_node_id": id}
    if node not in words.outputs:  # begun, and as far as anybody knows not finished
        executed.pop(node, None)
    entry = run.document.get(node)
    end = {
        "prompt_id": run.id,
        "node_id": node,
        "node_type": entry.get("class_type", "") if isinstance(entry, dict) else "",
        "executed": list(executed),
        "exception_message": reason,
        "timestamp": time.time_ns() // 1_000_000,
    }
    words.messages.append(["execution_interrupted", end])
    words.told = [("execution_interrupted", end), ("executing", {"node": None, "prompt_id": run.id})]
    return words
