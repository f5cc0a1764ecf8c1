"""A node under examination, and how a finding about it is written down."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from graph_engine.entry import Link, NodeEntry
from graph_engine.spec import NodeSpec, Problem
from graph_engine.suggest import show

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
            got=_plain(got),
            wanted=wanted,
            hint=hint,
        )


def _plain(value: Any) -> Any:
    """The value if JSON can hold it, else what it looks like."""
    if isinstance(value, Link):
        return value.to_json()
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return show(value)
    return value
