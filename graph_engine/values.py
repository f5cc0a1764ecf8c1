"""The values of a run: found by the nodes that made them, pinned while somebody may still read them, let go of after that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from graph_engine.cache import Cache
from graph_engine.lookup import NeedValues
from graph_engine.scheduler import Scheduler
from graph_engine.task import Task
from graph_engine.walk import summary

__all__ = ["Values"]


class Values:
    """Connects the tasks of a run with the cache. The scheduler says what is needed, and hears what turned out to be gone."""

    def __init__(self, cache: Cache, tasks: Mapping[str, Task]) -> None:
        self._cache, self._tasks = cache, tasks
        self._pinned: dict[str, bytes] = {}
        self.scheduler = Scheduler(self.present)

    def present(self, id: str) -> bool:
        """Whether the outputs of a settled node can be had without running it."""
        task = self._tasks[id]
        return not task.identities or self._cache.present(task.key)

    def identity(self, id: str, output: int) -> bytes:
        return self._tasks[id].identities[output]

    def at_hand(self, task: Task, names: Iterable[str]) -> dict[str, Any]:
        """The inputs of a node: literals, constants, and of the linked ones those named. Raises NeedValues for what is gone."""
        values = {**task.literals, **{name: constant.value for name, constant in task.constants.items()}}
        missing = []
        for name in names:
            source, output = task.links[name]
            found = self._cache.get(self._tasks[source].key)
            if found is None:
                missing.append(source)
            else:
                values[name] = found[output]
        if missing:
            raise NeedValues(missing)
        return values

    def gather(self, task: Task) -> dict[str, Any] | None:
        """The inputs of a node about to run; None when one of them turns out to be gone and must be made again first."""
        try:
            return self.at_hand(task, task.links)
        except NeedValues as need:
            self.lose(need.sources, task)
            return None

    def outputs(self, ids: Iterable[str], reader: Task) -> dict[str, tuple[Any, ...]] | None:
        """The outputs of some nodes; None when some turn out to be gone and must be made again first."""
        found = {id: self._cache.get(self._tasks[id].key) for id in ids}
        gone = [id for id, value in found.items() if value is None]
        if gone:
            self.lose(gone, reader)
            return None
        return {id: value for id, value in found.items() if value is not None}

    def lose(self, sources: Iterable[str], reader: Task) -> None:
        for source in sources:
            self._cache.discard(self._tasks[source].key)
            self.scheduler.lost(source, reader.id)
        self.hold_and_release()

    def spoilt(self, task: Task, names: Iterable[str]) -> None:
        """A node wrote into these inputs: nobody else may read them."""
        for name in names:
            if name in task.links:
                self._cache.discard_sharing(self._tasks[task.links[name][0]].key)

    def hold_and_release(self) -> None:
        """Pin values that became needed, and let go of those that nobody will read again."""
        for id, needed in self.scheduler.changes():
            if needed and id not in self._pinned:
                self._pinned[id] = self._tasks[id].key
                self._cache.pin(self._pinned[id])
            elif not needed and id in self._pinned:
                self._cache.unpin(self._pinned.pop(id))

    def release(self) -> None:
        """Let go of everything, at the end of the run."""
        for key in self._pinned.values():
            self._cache.unpin(key)
        self._pinned.clear()

    def summaries(self, task: Task) -> dict[str, str]:
        """The inputs of a node in words, as far as they are known."""
        shown = {name: summary(value) for name, value in task.literals.items()}
        shown |= {name: summary(constant.value) for name, constant in task.constants.items()}
        for name, (source, output) in task.links.items():
            made = self._tasks.get(source)
            value = self._cache.peek(made.key) if made is not None and made.record is not None else None
            shown[name] = f"from {source}" if value is None else summary(value[output])
        return shown
