"""Checks the links of a document: where they come from, what they carry, and whether that fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graph_engine.entry import Link
from graph_engine.finding import At
from graph_engine.hints import Hints
from graph_engine.node import Linked
from graph_engine.sockets import accepts
from graph_engine.spec import InputSpec, NodeSpec, Problem
from graph_engine.suggest import nearest, show
from graph_engine.unify import Types
from graph_engine.workflow import Workflow

__all__ = ["Linking"]


class Linking:
    """What the links of one document carry; nodes are settled sources first, so that generic outputs have a type."""

    def __init__(self, workflow: Workflow, specs: Mapping[str, NodeSpec], hints: Hints, places: Mapping[str, int]) -> None:
        self._nodes = workflow.nodes
        self._specs = specs
        self._hints = hints
        self._places = places
        self._types = Types()
        self._fits: dict[tuple[tuple[str, ...], tuple[str, ...]], bool] = {}

    def carried(self, at: At, name: str, link: Link, problems: list[Problem]) -> tuple[str, ...] | None:
        """The types that a link carries; None, and a problem, when it comes from nowhere."""
        source = self._nodes.get(link.node)
        if source is None:
            problems.append(self._dangling(at, name, link))
            return None
        spec = self._specs.get(source.class_type)
        if spec is None:
            return None  # an unknown type is a problem of its own node
        output = link.output
        index = output if type(output) is int and 0 <= output < len(spec.outputs) else spec.output_index(output)
        if index is not None:
            return self._types.of(link.node, spec, index)
        names = [made.name for made in spec.outputs]
        message = f"node {show(link.node)[1:-1]} ({source.label}) has no output {show(output)}"
        near = nearest(output, names) if isinstance(output, str) else None
        hint = f"did you mean {near!r}?" if near else self._hints.listed(names, "outputs") or "it has no outputs"
        problems.append(at.problem("unknown_output", message, name, got=link, wanted=names, hint=hint))
        return None

    def mismatch(self, at: At, wanted: InputSpec, link: Link, given: tuple[str, ...]) -> Problem | None:
        """A problem when what a link carries does not fit the input."""
        pair = wanted.types, given
        if (fits := self._fits.get(pair)) is None:
            fits = self._fits[pair] = accepts(wanted.types, given)
        if fits:
            return None
        source = self._nodes[link.node]
        called = " or ".join(wanted.types)
        outputs = self._specs[source.class_type].outputs
        fitting = next((output.name for output in outputs if accepts(wanted.types, output.types)), None)
        hint = self._hints.fitting(at.id, wanted, self._places) if fitting is None else f"use its output {fitting!r}"
        message = f"{given[0]} given by node {link.node} ({source.label}), {called} wanted"
        return at.problem("socket_mismatch", message, wanted.name, got=given[0], wanted=called, hint=hint)

    def settle(self, at: At, linked: Sequence[tuple[str, tuple[str, ...]]]) -> list[Problem]:
        """Bind the type variables of a node; problems where its inputs do not agree."""
        return [
            at.problem(
                "socket_mismatch",
                f"{got[0]} given where the other inputs of this node carry {bound[0]}",
                name,
                got=got[0],
                wanted=bound[0],
                hint="all of them must carry the same type",
            )
            for name, got, bound in self._types.bind(at.id, at.entry, at.spec, linked)
        ]

    def shown(self, link: Link) -> Linked | None:
        """What a node's own check sees of a link; None when it comes from nowhere."""
        source = self._nodes.get(link.node)
        spec = None if source is None else self._specs.get(source.class_type)
        index = None if spec is None else spec.output_index(link.output)
        if spec is None or index is None:
            return None
        return Linked(self._types.of(link.node, spec, index), link.node, spec.outputs[index].name)

    def _dangling(self, at: At, name: str, link: Link) -> Problem:
        message = f"the link comes from node {show(link.node)}, which does not exist"
        hint = self._hints.name(link.node, self._nodes.keys(), "nodes")
        if (wanted := at.spec.by_name.get(name)) is not None and wanted.list:
            hint = f'{hint}; a list of values is written {{"__value__": [...]}}'
        return at.problem("dangling_link", message, name, got=link, wanted="a link to a node", hint=hint)
