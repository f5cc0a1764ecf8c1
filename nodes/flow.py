"""Flow of control: counting, choosing between two branches, and a loop over a list that carries a value from turn to turn.

The loop is built on expansion. `ForEach` opens it and `ForEachEnd` closes it; the nodes between the two are its body. When the end runs, it
is replaced by one copy of the body for each item, the carried value of one turn linked to the next.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple, TypeVar

from pydantic import Field

from graph_engine.entry import Constant, Link, NodeEntry
from graph_engine.errors import NodeError
from graph_engine.node import Node
from graph_engine.sockets import Lazy

if TYPE_CHECKING:
    from graph_engine.context import Context, GraphView

    T = Any
else:
    T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Loop:
    """What a loop goes over, and the value that its first turn is given."""

    socket: ClassVar[str] = "LOOP"
    items: tuple[Any, ...]
    initial: Any = None


def body(graph: GraphView, start: str, end: str) -> list[str]:
    """The nodes that run in every turn: those that depend on `start` and are needed by `end`, or have effects of their own on the way.

    What depends on `end` comes after the loop. Only nodes beside the end are looked at: no other can lead from `start` to it.
    """
    beside = [node for node in graph.scope(end) if node in graph]
    reads: dict[str, list[str]] = {node: _sources(graph[node]) for node in beside}
    readers: dict[str, list[str]] = {node: [] for node in beside}
    for node, sources in reads.items():
        for source in sources:
            if source in readers:
                readers[source].append(node)
    inside = _reach(readers, [start]) - _reach(readers, [end])
    effects = [node for node in beside if node in inside and graph.is_output(node)]
    needed = _reach(reads, [*reads[end], *effects])
    return [node for node in beside if node in inside and node in needed and node != start]


def _sources(entry: NodeEntry) -> list[str]:
    return [value.node for value in entry.inputs.values() if isinstance(value, Link)]


def _reach(edges: dict[str, list[str]], roots: Iterable[str]) -> set[str]:
    found = set(roots)
    todo = list(found)
    while todo:
        for other in edges.get(todo.pop(), ()):
            if other not in found:
                found.add(other)
                todo.append(other)
    return found


def unroll(
    graph: GraphView, inside: Collection[str], start: str, end: NodeEntry, turns: list[tuple[Constant, Constant]], initial: Constant
) -> tuple[dict[str, NodeEntry], list[Link | Constant], Link | Constant]:
    """A copy of the body for each turn, given as (item, index): the copies by local id, the results, and the last carried value."""
    short = {node: node.rpartition(".")[2] for node in inside}
    outside = {value.node for node in inside for value in graph[node].inputs.values() if isinstance(value, Link)}
    outside |= {value.node for value in end.inputs.values() if isinstance(value, Link)}
    local = {f"{i}.{name}" for i in range(len(turns)) for name in short.values()}
    mark = "" if local.isdisjoint(outside) else "turn"  # a node of the workflow happens to be called so
    copies: dict[str, NodeEntry] = {}
    results: list[Link | Constant] = []
    carried: Link | Constant = initial
    for i, (item, index) in enumerate(turns):
        given: dict[int | str, Link | Constant] = {"item": item, "index": index, "carried": carried, 1: item, 2: index, 3: carried}

        def follow(value: Any, i: int = i, given: dict[int | str, Link | Constant] = given) -> Any:
            if not isinstance(value, Link):
                return value
            if value.node == start and value.output in given:
                return given[value.output]
            return Link(f"{mark}{i}.{short[value.node]}", value.output) if value.node in short else value

        for node in inside:
            entry = graph[node]
            inputs = {name: follow(value) for name, value in entry.inputs.items()}
            copies[f"{mark}{i}.{short[node]}"] = dataclasses.replace(entry, inputs=inputs)
        if "result" in end.inputs:
            results.append(follow(end.inputs["result"]))
        if "carried" in end.inputs:
            carried = follow(end.inputs["carried"])
    return copies, results, carried


# node


class Range(Node, category="flow", title="Range", aliases=("count", "list of numbers", "sequence")):
    """Count from `start` towards `stop`, which is left out."""

    start: Annotated[int, Field(description="The first number.")] = 0
    stop: Annotated[int, Field(description="Where to end; this number is not among them.")] = 10
    step: Annotated[int, Field(description="What is added each time; may be negative, not 0.")] = 1

    @classmethod
    def check(cls, inputs: Any) -> Iterable[tuple[str, str]]:
        if inputs.get("step") == 0:
            yield "step", "0 never arrives; give a positive or negative step"

    def run(self, ctx: Context) -> list[int | float]:  # each is both, so that the editor links it to either
        if self.step == 0:
            raise NodeError("step: 0 never arrives; give a positive or negative step")
        count = len(range(self.start, self.stop, self.step))
        if count > 1_000_000:
            raise NodeError(f"{count} numbers from {self.start} to {self.stop} are more than a million")
        return list(range(self.start, self.stop, self.step))


class Lines(Node, category="flow", title="Lines", aliases=("list of texts", "prompts", "split")):
    """The lines of a text as a list, for a loop or for as many runs of what follows; empty lines are left out."""

    text: Annotated[str, Field(json_schema_extra={"multiline": True}, description="One item a line.")]

    def run(self, ctx: Context) -> list[str]:
        return [line for line in map(str.strip, self.text.splitlines()) if line]


class Switch(Node, category="flow", title="Switch", aliases=("if", "choose", "condition")):
    """One of two inputs; the other is not computed."""

    switch: Annotated[bool, Field(description="Whether to take `on_true`.")] = False
    on_false: Annotated[Lazy[T], Field(description="What comes out when the switch is off.")]
    on_true: Annotated[Lazy[T], Field(description="What comes out when the switch is on.")]

    def wants(self) -> Iterable[str]:
        return ["on_true" if self.switch else "on_false"]

    def run(self, ctx: Context) -> T:
        return self.on_true if self.switch else self.on_false


class ForEach(Node, category="flow", title="For each", aliases=("loop", "iterate", "repeat")):
    """Open a loop: what depends on its outputs, up to `ForEachEnd`, runs once for each item, one after another.

    `carried` is `initial` in the first turn, and then what the turn before gave to `ForEachEnd`.
    """

    items: Annotated[list[T], Field(description="What the loop goes over.")]
    initial: Annotated[Any, Field(description="The carried value of the first turn.")] = None

    class Out(NamedTuple):
        loop: Annotated[Loop, Field(description="For ForEachEnd.")]
        item: T
        index: Annotated[int, Field(description="0 in the first turn.")]  # type: ignore[assignment]  # hides tuple.index
        carried: Any

    def run(self, ctx: Context) -> Out:
        nothing = ctx.blocked("this node stands inside a loop, where it has a value in every turn; ask for ForEachEnd instead")
        return self.Out(Loop(tuple(self.items), self.initial), nothing, nothing, nothing)


class ForEachEnd(Node, category="flow", title="End of for each", output=True, aliases=("loop", "collect")):
    """Close a loop: collect the `result` of every turn, and hand `carried` on to the next."""

    loop: Annotated[Loop, Field(description="From ForEach.")]
    result: Annotated[Lazy[Any], Field(description="Collected into a list, one for each turn.")] = None
    carried: Annotated[Lazy[Any], Field(description="What the next turn is given, and the loop gives in the end.")] = None

    class Out(NamedTuple):
        results: list[Any]
        carried: Any

    def wants(self) -> Iterable[str]:
        return ()  # they have values only in the copies

    def run(self, ctx: Context) -> Out:
        end = ctx.graph[ctx.node]
        loop = end.inputs["loop"]
        if not isinstance(loop, Link) or ctx.graph[loop.node].class_type != ForEach.spec.type:
            raise NodeError("loop: link it to the output `loop` of ForEach itself")
        inside = body(ctx.graph, loop.node, ctx.node)
        turns = [(ctx.constant(item), ctx.constant(i)) for i, item in enumerate(self.loop.items)]
        copies, results, carried = unroll(ctx.graph, inside, loop.node, end, turns, ctx.constant(self.loop.initial))
        return ctx.expand(copies, [results, carried])  # type: ignore[return-value]
