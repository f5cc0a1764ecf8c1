"""From a node whose inputs are known to the key of its result: literals, file contents, identities, and lazy inputs as asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from graph_engine.cache import Cache
from graph_engine.call import ask, blocked, spread
from graph_engine.digests import Digests
from graph_engine.errors import NodeError
from graph_engine.files import Folders
from graph_engine.keys import constant_identity, node_key, nonce
from graph_engine.spec import NodeSpec
from graph_engine.task import RunningGraph, Task

__all__ = ["Files", "Lookup", "NeedInputs", "NeedValues"]


class NeedInputs(Exception):
    """The node asks for lazy inputs."""

    def __init__(self, names: list[str]) -> None:
        self.names = names


class NeedValues(Exception):
    """The values of these nodes are needed, and not at hand."""

    def __init__(self, sources: list[str]) -> None:
        self.sources = sources


class Files:
    """The content of file inputs."""

    def __init__(self, folders: Folders | None, digests: Digests) -> None:
        self._folders, self._digests = folders, digests
        self._known: dict[tuple[str, str], str] = {}  # within one run a file counts as it was at first sight

    def digest(self, spec: NodeSpec, name: str, value: str) -> str:
        """Where a file lies and what is in it, as text; "missing" when there is none, which its node will say better.

        The path counts too, because what a loader makes refers to the file by its path.
        """
        declared = spec.by_name[name]
        if self._folders is None or declared.folder is None:
            return "unknown"
        at = declared.folder, value
        if at not in self._known:
            try:
                path = self._folders.resolve(declared.folder, value, declared.embedded)
                self._known[at] = f"{path.as_posix()} {self._digests.of(path)}"
            except (NodeError, OSError):
                self._known[at] = "missing"
        return self._known[at]


class Lookup:
    """Finds keys; `values` gives the inputs of a node whose values are at hand, or raises NeedValues."""

    def __init__(self, cache: Cache, files: Files, graph: RunningGraph, values: Callable[[Task, list[str]], dict[str, Any]]) -> None:
        self._cache, self._files, self._graph, self._values = cache, files, graph, values
        self._looking: dict[str, bool] = {}  # node types, whether they read the graph around them

    def key(self, task: Task, identity: Callable[[str, int], bytes]) -> bytes:
        """The key of a node whose inputs are settled. Raises NeedInputs or NeedValues when it depends on more."""
        key = self._stage(task, identity)
        if task.lazy and (wanted := [name for name in self._asked(task, key) if name in task.lazy]):
            raise NeedInputs(wanted)
        if not task.spec.cache:
            return nonce()
        return self.around(task, key) if self._looks(task.spec) else key

    def around(self, task: Task, key: bytes) -> bytes:
        """The key of a node that reads the graph around it."""
        return hashlib.blake2b(key + self._graph.scope_key(task.id), digest_size=16, person=b"around").digest()

    def learn(self, task: Task) -> bytes:
        """Note that a node has read the graph around it; its key, and the keys of all of its type from now on, depend on that graph."""
        if self._looks(task.spec):
            return task.key
        self._looking[task.spec.type] = True
        self._cache.remember_asked(_type_key(task.spec), ("graph",))
        return self.around(task, task.key) if task.spec.cache else task.key

    def _looks(self, spec: NodeSpec) -> bool:
        found = self._looking.get(spec.type)
        if found is None:
            found = self._looking[spec.type] = self._cache.asked(_type_key(spec)) is not None
        return found

    def _stage(self, task: Task, identity: Callable[[str, int], bytes]) -> bytes:
        inputs = {name: identity(*source) for name, source in task.links.items()}
        for name, constant in task.constants.items():
            inputs[name] = constant_identity(constant.key)
        return node_key(task.spec, task.literals, self._contents(task), inputs)

    def _contents(self, task: Task) -> dict[str, str]:
        files = {}
        for declared in task.spec.inputs:
            name = declared.name
            if declared.folder is None or name in task.lazy:
                continue
            if name in task.links:
                value = self._values(task, [name])[name]
            else:
                value = task.constants[name].value if name in task.constants else task.literals.get(name)
            names = value if isinstance(value, list) else [value]
            files[name] = "\n".join(self._files.digest(task.spec, name, each) for each in names if isinstance(each, str))
        return files

    def _asked(self, task: Task, key: bytes) -> tuple[str, ...]:
        names = self._cache.asked(key) if task.spec.cache else None
        if names is None:
            values = self._values(task, list(task.links))
            calls, _ = spread(task.spec, values, [*task.links, *task.constants])
            wanted = [name for each in calls if blocked(each) is None for name in ask(task.cls, each)]
            names = tuple(dict.fromkeys(wanted))
            if task.spec.cache:
                self._cache.remember_asked(key, names)
        return names


def _type_key(spec: NodeSpec) -> bytes:
    return hashlib.blake2b(f"{spec.type}@{spec.version}".encode(), digest_size=16, person=b"type").digest()
