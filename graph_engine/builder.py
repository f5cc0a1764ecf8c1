"""Builds workflows in Python: every node type is a method, and what it returns stands for its outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from graph_engine.catalogue import Catalogue
from graph_engine.entry import Constant, Link, NodeEntry
from graph_engine.errors import WorkflowError
from graph_engine.registry import Registry
from graph_engine.sockets import accepts
from graph_engine.spec import InputSpec, NodeSpec, Problem
from graph_engine.suggest import did_you_mean, nearest, show
from graph_engine.unify import Types
from graph_engine.workflow import Workflow

__all__ = ["Graph", "Output", "Placed"]


class Output:
    """One output of a placed node; give it to the inputs of others."""

    def __init__(self, node: str, name: str, index: int, types: tuple[str, ...]) -> None:
        self.node = node
        self.name = name
        self.index = index
        self.types = types

    @property
    def link(self) -> Link:
        return Link(self.node, self.index)

    def __repr__(self) -> str:
        return f"<{self.types[0]} {self.node}.{self.name}>"


class Placed:
    """A node of a graph under construction; its outputs are attributes, or items by name or position."""

    def __init__(self, id: str, spec: NodeSpec, outputs: tuple[Output, ...]) -> None:
        self.id = id
        self.spec = spec
        self.outputs = outputs

    @property
    def link(self) -> Link:
        """The link to its only output. Raises WorkflowError when it has several or none."""
        return self.only().link

    def only(self) -> Output:
        """Its only output. Raises WorkflowError when it has several or none."""
        if len(self.outputs) != 1:
            names = ", ".join(output.name for output in self.outputs) or "none"
            message = f"{self.spec.type} has {len(self.outputs)} outputs, so say which"
            raise _error("unknown_output", message, node=self.id, class_type=self.spec.type, hint=f"outputs: {names}")
        return self.outputs[0]

    def __getitem__(self, ref: int | str) -> Output:
        index = self.spec.output_index(ref)
        if index is None:
            if isinstance(ref, int):
                raise IndexError(f"{self.spec.type} has no output {ref}; it has {len(self.outputs)}")
            raise KeyError(self._no_output(ref))
        return self.outputs[index]

    def __getattr__(self, name: str) -> Output:
        index = None if name.startswith("__") else self.spec.output_index(name)
        if index is None:
            raise AttributeError(self._no_output(name))
        return self.outputs[index]

    def __iter__(self) -> Iterator[Output]:
        return iter(self.outputs)

    def __len__(self) -> int:
        return len(self.outputs)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(output.name for output in self.outputs if output.name.isidentifier())]

    def __repr__(self) -> str:
        return f"<{self.spec.type} {self.id}>"

    def _no_output(self, name: str) -> str:
        names = [output.name for output in self.outputs]
        hint = did_you_mean(name, names) or f"outputs: {', '.join(names) or 'none'}"
        return f"{self.spec.type} has no output {name!r}; {hint}"


class Graph:
    """A workflow under construction: `g.KSampler(model=m, seed=5, _title="first")` places a node and gives its outputs.

    Ids count up from 1 with `prefix` before them. A wrong name, type or value raises WorkflowError at once, with
    everything that is wrong with that node; file names and a node's own `check` wait for `validate`.
    """

    def __init__(self, nodes: Registry | Catalogue | Mapping[str, NodeSpec], *, prefix: str = "") -> None:
        self._specs: Mapping[str, NodeSpec] = nodes.specs if isinstance(nodes, (Registry, Catalogue)) else nodes
        self._prefix = prefix
        self._entries: dict[str, NodeEntry] = {}
        self._types = Types()
        self._count = 0

    def workflow(self) -> Workflow:
        """The document as built so far."""
        return Workflow(dict(self._entries))

    def add(self, type: str, inputs: Mapping[str, Any], *, id: str | None = None, title: str | None = None) -> Placed:
        """Place a node; for types and inputs whose names are no Python names. Raises WorkflowError with everything that
        is wrong.
        """
        if (spec := self._specs.get(type)) is None:
            raise _error(
                "unknown_node",
                f"no node type {show(type)} is installed",
                class_type=type,
                hint=did_you_mean(type, self._specs),
            )
        if id is None:
            id = self._next()
        elif id in self._entries:
            raise _error("duplicate_name", f"there is a node {id!r} already", node=id, class_type=type)
        where = {"node": id, "title": title or spec.title, "class_type": type}
        made: dict[str, Any] = {}
        problems: list[Problem] = []
        linked: list[tuple[str, tuple[str, ...]]] = []
        for name, value in inputs.items():
            wanted = spec.by_name.get(name)
            if wanted is None:
                hint: str = did_you_mean(name, spec.by_name) or f"inputs: {', '.join(spec.by_name) or 'none'}"
                message = f"{type} has no input {name!r}"
                problems.append(Problem(code="unknown_input", message=message, field=name, got=_plain(value), hint=hint, **where))
                continue
            try:
                made[name], given = self._input(wanted, value)
            except WorkflowError as error:
                problems += [problem.model_copy(update={"field": name, **where}) for problem in error.problems]
                continue
            if given is not None:
                linked.append((name, given))
        for name, wanted in spec.by_name.items():
            if wanted.required and name not in inputs:
                called = " or ".join(wanted.types)
                extra = nearest(name, [each for each in inputs if each not in spec.by_name], parts=False)
                problems.append(
                    Problem(
                        code="required_input_missing",
                        message="required, but not given",
                        field=name,
                        wanted=called,
                        hint=f"{extra!r} is not an input" if extra else None,
                        **where,
                    )
                )
        entry = NodeEntry(type, made, title, spec.version)
        for name, got, bound in self._types.bind(id, entry, spec, linked):
            message = f"{got[0]} given where the other inputs of this node carry {bound[0]}"
            problems.append(Problem(code="socket_mismatch", message=message, field=name, got=got[0], wanted=bound[0], **where))
        if problems:
            raise WorkflowError(problems)
        self._entries[id] = entry
        outputs = tuple(Output(id, output.name, n, self._types.of(id, spec, n)) for n, output in enumerate(spec.outputs))
        return Placed(id, spec, outputs)

    def __getitem__(self, type: str) -> Callable[..., Placed]:
        def place(*, _id: str | None = None, _title: str | None = None, **inputs: Any) -> Placed:
            return self.add(type, inputs, id=_id, title=_title)

        place.__name__ = place.__qualname__ = type
        if (spec := self._specs.get(type)) is not None:
            place.__doc__ = spec.description
        return place

    def __getattr__(self, type: str) -> Callable[..., Placed]:
        if type.startswith("_") or type not in self._specs:
            hint = did_you_mean(type, self._specs) if not type.startswith("_") else None
            raise AttributeError(f"no node type {type!r} is installed" + (f"; {hint}" if hint else ""))
        return self[type]

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(type for type in self._specs if type.isidentifier())]

    def _input(self, wanted: InputSpec, value: Any) -> tuple[Any, tuple[str, ...] | None]:
        """What goes into the document for an input, and the types that come over its link, if it is one whose source is
        known.
        """
        if isinstance(value, Placed):
            value = value.only()
        if isinstance(value, Output):
            if value.node not in self._entries:
                raise _error("dangling_link", f"{value!r} belongs to another graph", hint="place its node in this graph")
            if not accepts(wanted.types, value.types):
                called = " or ".join(wanted.types)
                raise _error(
                    "socket_mismatch",
                    f"{value.types[0]} given by {value!r}, {called} wanted",
                    got=value.types[0],
                    wanted=called,
                )
            return value.link, value.types
        if isinstance(value, (Link, Constant)):
            return value, None
        if isinstance(value, tuple):
            value = list(value)
        if isinstance(value, list) and any(isinstance(item, (Placed, Output, Link)) for item in value):
            raise _error("bad_link", "one input takes one link, not a list of them", hint="join them with a node that batches")
        if objection := wanted.refuse(value):
            code, message, want = objection
            raise _error(code, message, got=_plain(value), wanted=want)
        return value, None

    def _next(self) -> str:
        while True:
            self._count += 1
            if (id := f"{self._prefix}{self._count}") not in self._entries:
                return id


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, (bool, int, float, str)) else show(value)


def _error(code: str, message: str, **more: Any) -> WorkflowError:
    return WorkflowError([Problem(code=code, message=message, **more)])
