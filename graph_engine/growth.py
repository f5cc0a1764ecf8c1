"""How an expanded node grows into the graph, and how its outputs are put together when the nodes it stands for have finished."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from graph_engine.call import collect
from graph_engine.entry import Constant, Link, NodeEntry
from graph_engine.events import Artifact
from graph_engine.expansion import Expansion, Source, absolute
from graph_engine.keys import constant_identity
from graph_engine.record import Blocked

if TYPE_CHECKING:
    from graph_engine.attempt import Outcome
    from graph_engine.context import Context
    from graph_engine.task import RunningGraph, Task

__all__ = ["Grown", "grow", "put_together"]

_DEEPEST = 16  # expansions within expansions whose ids are spelt out; a loop by re-expansion would make them longer and longer


@dataclass(slots=True)
class Grown:
    """What a node stands for: where the outputs of each of its calls come from, and which nodes have to finish."""

    calls: list[tuple[Source, ...]]
    mapped: bool
    nodes: dict[str, NodeEntry]
    needs: list[str]
    sources: list[str]  # the nodes whose values the outputs are made of
    artifacts: tuple[Artifact, ...]
    ui: dict[str, Any]
    inside: list[str] = field(default_factory=list)


def grow(task: Task, outcome: Outcome, ctx: Context, graph: RunningGraph, makers: MutableMapping[str, Task]) -> Grown:
    """Enter the nodes of every expansion that the calls of a node returned into the graph. Raises NodeError for a broken expansion."""
    calls: list[tuple[Source, ...]] = []
    nodes: dict[str, NodeEntry] = {}
    for index, returned in enumerate(outcome.returned):
        if not isinstance(returned, Expansion):
            calls.append(tuple(ctx.constant(value) for value in returned))
            continue
        prefix = _prefix(task, graph, returned, index if outcome.mapped else None)
        made = absolute(returned, prefix, graph.entries, graph.specs)
        graph.add(made.nodes)
        nodes.update(made.nodes)
        calls.append(made.outputs)
    makers.update(dict.fromkeys(nodes, task))
    sources = dict.fromkeys(link.node for call in calls for source in call for link in _each(source) if isinstance(link, Link))
    effects = [id for id in nodes if graph.is_output(id)]
    return Grown(
        calls=calls,
        mapped=outcome.mapped,
        nodes=nodes,
        needs=list(dict.fromkeys((*sources, *effects))),
        sources=list(sources),
        artifacts=tuple(ctx.artifacts),
        ui=ctx.ui,
    )


def put_together(
    task: Task, grown: Grown, values: Mapping[str, Any], identity: Callable[[str, int], bytes]
) -> tuple[tuple[Any, ...], list[bytes]]:
    """The outputs of an expanded node from the values of the nodes it stands for, and the identities they have by their sources."""
    made: list[tuple[Any, ...]] = []
    identities: list[list[bytes]] = []
    for call in grown.calls:
        outputs: list[Any] = []
        for declared, source in zip(task.spec.outputs, call, strict=True):
            found = [_value(each, values) for each in _each(source)]
            whole = found if isinstance(source, list) else found[0]
            outputs.append([whole] if declared.list and not isinstance(whole, (list, Blocked)) else whole)
        made.append(tuple(outputs))
        identities.append([_joined(source, [_identity(each, identity) for each in _each(source)]) for source in call])
    if not grown.mapped:
        return made[0], identities[0]
    return collect(task.spec, made), [_join(list(column)) for column in zip(*identities, strict=True)]


def _prefix(task: Task, graph: RunningGraph, made: Expansion, index: int | None) -> str:
    depth, maker = 0, task.maker
    while maker is not None and depth <= _DEEPEST:
        depth, maker = depth + 1, maker.maker
    prefix = task.id if depth < _DEEPEST else f"{task.parent}.~{len(graph.entries)}"
    if index is not None:
        prefix = f"{prefix}.{index}"
    while any(f"{prefix}.{local}" in graph for local in made.nodes):  # a node of the workflow happens to be called so
        prefix += "~"
    return prefix


def _each(source: Source) -> list[Link | Constant]:
    return source if isinstance(source, list) else [source]


def _value(source: Link | Constant, values: Mapping[str, Any]) -> Any:
    if isinstance(source, Constant):
        return source.value
    assert isinstance(source.output, int)
    return values[source.node][source.output]


def _identity(source: Link | Constant, identity: Callable[[str, int], bytes]) -> bytes:
    if isinstance(source, Constant):
        return constant_identity(source.key)
    assert isinstance(source.output, int)
    return identity(source.node, source.output)


def _joined(source: Source, identities: list[bytes]) -> bytes:
    return _join(identities) if isinstance(source, list) else identities[0]


def _join(identities: list[bytes]) -> bytes:
    return hashlib.blake2b(b"".join(identities), digest_size=16, person=b"list").digest()
