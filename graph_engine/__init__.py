"""A typed node-graph engine: declare nodes, build or load a workflow, validate it, run it, re-run only what changed."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# not lazily as the others: importing the module of the same name would put the module here
from graph_engine.validate import validate

if TYPE_CHECKING:
    from graph_engine.builder import Graph
    from graph_engine.catalogue import Catalogue
    from graph_engine.context import Context
    from graph_engine.engine import Engine, Result
    from graph_engine.errors import Cancelled, DeclarationError, GraphError, NodeError, WorkflowError
    from graph_engine.events import Event
    from graph_engine.files import Folders
    from graph_engine.node import File, Node
    from graph_engine.registry import Registry
    from graph_engine.sockets import Lazy
    from graph_engine.spec import NodeSpec, Problem
    from graph_engine.workflow import Workflow

__all__ = [
    "Cancelled",
    "Catalogue",
    "Context",
    "DeclarationError",
    "Engine",
    "Event",
    "File",
    "Folders",
    "Graph",
    "GraphError",
    "Lazy",
    "Node",
    "NodeError",
    "NodeSpec",
    "Problem",
    "Registry",
    "Result",
    "Workflow",
    "WorkflowError",
    "validate",
]

_HOME = {
    "Cancelled": "errors",
    "Catalogue": "catalogue",
    "Context": "context",
    "DeclarationError": "errors",
    "Engine": "engine",
    "Event": "events",
    "File": "node",
    "Folders": "files",
    "Graph": "builder",
    "GraphError": "errors",
    "Lazy": "sockets",
    "Node": "node",
    "NodeError": "errors",
    "NodeSpec": "spec",
    "Problem": "spec",
    "Registry": "registry",
    "Result": "engine",
    "Workflow": "workflow",
    "WorkflowError": "errors",
}


def __getattr__(name: str) -> Any:
    # each name is imported when first asked for: reading declarations costs neither the executor nor networkx
    if name not in _HOME:
        raise AttributeError(f"module 'graph_engine' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"graph_engine.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
