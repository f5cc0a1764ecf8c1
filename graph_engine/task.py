"""The nodes of a running graph: their inputs sorted by kind, and the graph as nodes may see it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from graph_engine.call import is_async
from graph_engine.entry import Constant, Link, NodeEntry
from graph_engine.growth import Grown
from graph_engine.keys import constant_identity, node_key, output_identity
from graph_engine.node import Node
from graph_engine.record import Record
from graph_engine.spec import NodeSpec
from graph_engine.validate import canonical

__all__ = ["RunningGraph", "Task"]

Reads = dict[str, tuple[str, int]]  # input -> node and output it reads


class Task:
    """One node of a run."""

    __slots__ = (
        "asynchronous", "began", "cls", "constants", "expanded", "id", "identities", "key", "lazy", "links", "literals",
        "looked", "maker", "overlaps", "own_seconds", "parent", "record", "spec", "title",
    )  # fmt: skip

    def __init__(self, id: str, entry: NodeEntry, cls: type[Node], outputs: Callable[[Link], int], maker: Task | None) -> None:
        self.id, self.cls = id, cls
        self.spec: NodeSpec = cls.spec
        self.title = entry.title or self.spec.title or self.spec.type
        self.maker = maker  # the expanded node it came from
        self.parent: str = id if maker is None else maker.parent
        self.literals: dict[str, Any] = {}
        self.constants: dict[str, Constant] = {}
        self.links: Reads = {}
        self.lazy: Reads = {}  # lazy inputs that nobody asked for yet
        for name, value in canonical(entry, self.spec).items():
            if type(value) is Link:
                reads = self.lazy if self.spec.by_name[name].lazy else self.links
                reads[name] = value.node, outputs(value)
            elif type(value) is Constant:
                self.constants[name] = value
            else:
                self.literals[name] = value
        self.asynchronous = is_async(cls)
        self.overlaps = self.spec.output and not self.spec.outputs  # has effects only, such as saving
        self.key = b""
        self.record: Record | None = None
        self.identities: tuple[bytes, ...] = ()
        self.looked = False  # it has read ctx.graph
        self.expanded: Grown | None = None  # once it stands for other nodes
        self.began = 0.0
        self.own_seconds = 0.0


class RunningGraph:
    """The entries of a workflow and of everything expanded so far; what `ctx.graph` shows."""

    def __init__(
        self,
        entries: Mapping[str, NodeEntry],
        specs: Mapping[str, NodeSpec],
        digest: Callable[[NodeSpec, str, str], str],
    ) -> None:
        self.entries = dict(entries)
        self.specs = specs
        self._digest = digest
        self._scope_of: dict[str, str] = {}
        self._scopes: dict[str, list[str]] = {"": list(entries)}
        self._structures: dict[str, bytes] = {}
        self._scope_keys: dict[str, bytes] = {}

    def __getitem__(self, node: str) -> NodeEntry:
        return self.entries[node]

    def __contains__(self, node: object) -> bool:
        return node in self.entries

    def scope(self, node: str) -> Collection[str]:
        """The nodes that stand beside a node: those of the workflow, or of the same part of one expansion."""
        return tuple(self._scopes[self._scope_of.get(node, "")])

    def is_output(self, node: str) -> bool:
        """Whether a node has effects."""
        spec = self.specs.get(self.entries[node].class_type)
        return spec is not None and spec.output

    def titles(self, nodes: Iterable[str] | None = None) -> dict[str, str]:
        """What people call these nodes, or all."""
        titles = {}
        for id in self.entries if nodes is None else nodes:
            entry = self.entries[id]
            spec = self.specs.get(entry.class_type)
            titles[id] = entry.title or (spec.title if spec else "") or entry.class_type
        return titles

    def add(self, entries: Mapping[str, NodeEntry]) -> None:
        """Take in expanded nodes; those that share everything before the last dot of their id stand beside each other."""
        self.entries.update(entries)
        for id in entries:
            scope = id.rpartition(".")[0]
            self._scope_of[id] = scope
            self._scopes.setdefault(scope, []).append(id)

    def source(self, link: Link) -> int:
        """The position of the output that a link reads."""
        if type(link.output) is int:
            return link.output
        index = self.specs[self.entries[link.node].class_type].output_index(link.output)
        if index is None:
            raise KeyError(f"{link.node} has no output {link.output!r}")
        return index

    def scope_key(self, node: str) -> bytes:
        """16 bytes that stand for everything that is written in the scope of a node, wherever its links lead; ids do not count."""
        scope = self._scope_of.get(node, "")
        if scope not in self._scope_keys:
            keys = sorted(self._structure(id) for id in self._scopes[scope])
            self._scope_keys[scope] = hashlib.blake2b(b"".join(keys), digest_size=16, person=b"scope").digest()
        return self._scope_keys[scope]

    def _structure(self, node: str) -> bytes:
        known = self._structures
        opened: set[str] = set()
        stack = [node]
        while stack:  # chains are long, so no recursion
            id = stack[-1]
            entry = self.entries[id]
            links = {name: link for name, link in entry.inputs.items() if type(link) is Link and link.node in self.entries}
            if id not in known and id not in opened:
                opened.add(id)
                stack.extend(link.node for link in links.values() if link.node not in known)
                continue
            stack.pop()
            if id not in known:  # a source may be unknown only in a circle, which nothing wanted leads to
                known[id] = self._one(entry, {name: known.get(link.node, b"") for name, link in links.items()}, links)
        return known[node]

    def _one(self, entry: NodeEntry, sources: Mapping[str, bytes], links: Mapping[str, Link]) -> bytes:
        spec = self.specs.get(entry.class_type)
        if spec is None:  # stands in the document unneeded
            return hashlib.blake2b(repr((entry.class_type, sorted(entry.inputs))).encode(), digest_size=16).digest()
        given = canonical(entry, spec)
        literals = {name: value for name, value in given.items() if not isinstance(value, (Link, Constant))}
        inputs = {name: constant_identity(value.key) for name, value in given.items() if isinstance(value, Constant)}
        for name, link in links.items():
            source = self.specs.get(self.entries[link.node].class_type)
            inputs[name] = output_identity(sources[name], (source.output_index(link.output) if source else None) or 0)
        files = {}
        for name, value in literals.items():
            if spec.by_name[name].folder is not None and isinstance(value, str):
                files[name] = self._digest(spec, name, value)
        return node_key(spec, literals, files, inputs)
