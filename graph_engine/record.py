"""What is remembered of a finished node, also when the values themselves are gone."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from graph_engine.events import Artifact

__all__ = ["Blocked", "Record"]


@dataclass(frozen=True, slots=True)
class Blocked:
    """Given as an output that has no value here: whatever needs it does not run either. `reason` is told to those who ask for it."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """The outputs of a node by identity, what making them took, and what else it left: files, and what the editor shows."""

    identities: tuple[bytes, ...]
    seconds: float = 0.0
    bytes: int = 0
    artifacts: tuple[Artifact, ...] = ()
    ui: dict[str, Any] = field(default_factory=dict)
    blocked: bool = False  # it did not run, because an input had no value
    reason: str = ""  # why it had none

    def to_json(self) -> str:
        return json.dumps(
            {
                "identities": [identity.hex() for identity in self.identities],
                "seconds": self.seconds,
                "bytes": self.bytes,
                "artifacts": [artifact.model_dump() for artifact in self.artifacts],
                "ui": self.ui,
                "blocked": self.blocked,
                "reason": self.reason,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Record:
        """Read a record back; raises ValueError, KeyError or TypeError when the text is damaged."""
        found = json.loads(text)
        return cls(
            tuple(map(bytes.fromhex, found["identities"])),
            found["seconds"],
            found["bytes"],
            tuple(Artifact.model_validate(artifact) for artifact in found["artifacts"]),
            found["ui"],
            found["blocked"],
            found["reason"],
        )
