"""A node under examination, and how a finding about it is written down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from graph_engine.entry import Link, NodeEntry
from graph_engine.spec import NodeSpec, Problem

__all__ = ["At"]


@dataclass(slots=True)
class At:
    """One node of a document with what its type declares."""

    id: str
    entry: NodeEntry
    spec: NodeSpec

    def problem(
        self,
        code: str,
        message: str,
        field: str | None = None,
        *,
        got: Any = None,
        wanted: Any = None,
        hint: str | None = None,
    ) -> Problem:
        """A finding about this node or one of its inputs."""
        return Problem(
            code=code,
            message=message,
            node=self.id,
            title=self.entry.title or self.spec.title,
            class_type=self.entry.class_type,
            field=field,
            got=got.to_json() if isinstance(got, Link) else got,
            wanted=wanted,
            hint=hint,
        )
