"""A node that stands for other nodes: what `ctx.expand` returns, and how its nodes enter the running graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graph_engine.entry import Constant, Link, NodeEntry
from graph_engine.errors import NodeError
from graph_engine.spec import NodeSpec
from graph_engine.suggest import did_you_mean

__all__ = ["Expansion", "Source", "absolute", "expansion"]

Source = Link | Constant | list[Link | Constant]


@dataclass(frozen=True, slots=True)
class Expansion:
    """Nodes by local id, and where each output of the expanded node comes from: a link, a constant, or a list of these.

    A link to an id that is not among the nodes goes to the graph around.
    """

    nodes: Mapping[str, NodeEntry]
    outputs: tuple[Source, ...]


def expansion(graph: Any, outputs: Sequence[Any] | Any, constant: Any) -> Expansion:
    """Read what a node gives to `ctx.expand`: a Graph, a Workflow or entries by id; links, handles, values, or lists of them as outputs."""
    workflow = graph.workflow() if hasattr(graph, "workflow") else graph
    nodes = getattr(workflow, "nodes", workflow)
    if not isinstance(nodes, Mapping) or not all(isinstance(entry, NodeEntry) for entry in nodes.values()):
        raise NodeError(f"expand takes a Graph, a Workflow, or entries by id, not {type(graph).__name__}")

    def one(given: Any) -> Link | Constant:
        found = getattr(given, "link", given)
        made = found if isinstance(found, (Link, Constant)) else constant(found)
        if not isinstance(made, (Link, Constant)):
            raise NodeError(f"expand: {given!r} is not an output")
        return made

    given = outputs if isinstance(outputs, (tuple, list)) and not hasattr(outputs, "link") else (outputs,)
    return Expansion(dict(nodes), tuple([one(item) for item in each] if isinstance(each, list) else one(each) for each in given))


def absolute(made: Expansion, prefix: str, around: Mapping[str, NodeEntry], specs: Mapping[str, NodeSpec]) -> Expansion:
    """The same nodes under ids `prefix.local`, with links that hold in the whole graph and name outputs by position.

    Raises NodeError for an unknown type, a missing input, or a link that leads nowhere.
    """
    named = {local: f"{prefix}.{local}" for local in made.nodes}

    def follow(value: Any, where: str) -> Any:
        if not isinstance(value, Link):
            return value
        if (target := made.nodes.get(value.node)) is not None:
            id = named[value.node]
        elif (target := around.get(value.node)) is not None:
            id = value.node
        else:
            raise NodeError(f"expansion, {where}: there is no node {value.node!r}")
        spec = specs.get(target.class_type)
        index = None if spec is None else spec.output_index(value.output)
        if spec is not None and index is None:
            raise NodeError(f"expansion, {where}: {target.class_type} has no output {value.output!r}")
        return Link(id, value.output if index is None else index)

    nodes = {}
    for local, entry in made.nodes.items():
        if (spec := specs.get(entry.class_type)) is None:
            hint = did_you_mean(entry.class_type, specs)
            raise NodeError(f"expansion, node {local}: there is no node type {entry.class_type!r}" + (f"; {hint}" if hint else ""))
        missing = [name for name, wanted in spec.by_name.items() if wanted.required and name not in entry.inputs]
        if missing:
            raise NodeError(f"expansion, node {local} ({entry.class_type}): input {missing[0]} is missing")
        inputs = {name: follow(value, f"node {local}, input {name}") for name, value in entry.inputs.items()}
        nodes[named[local]] = dataclasses.replace(entry, inputs=inputs)
    outputs = []
    for i, each in enumerate(made.outputs):
        where = f"output {i}"
        outputs.append([follow(item, where) for item in each] if isinstance(each, list) else follow(each, where))
    return Expansion(nodes, tuple(outputs))
