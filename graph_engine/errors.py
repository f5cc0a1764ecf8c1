"""What can go wrong, as types: a mistake in a declaration, in a workflow, in a node, or a wish to stop."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from graph_engine.spec import Problem

__all__ = ["Cancelled", "DeclarationError", "GraphError", "NodeError", "WorkflowError"]


class GraphError(Exception):
    """Anything the engine raises on purpose."""


class DeclarationError(GraphError, TypeError):
    """A node class says something that cannot be: an unknown type, a missing annotation, a default outside its
    bounds.
    """


class WorkflowError(GraphError, ValueError):
    """A workflow cannot run; `problems` holds every reason found, not only the first."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class NodeError(GraphError, RuntimeError):
    """A node could not do its work, for a reason that its own words explain (a bad file, an impossible pair of
    inputs).
    """


class Cancelled(GraphError):
    """The run was asked to stop; raised inside `ctx.step` so that every `with` block unwinds."""
