"""What can be done next, as a state machine without threads, clocks or values (sans I/O); the executor is the loop around it.

A node is *settled* when it is known what its outputs are (by content key), whether or not their values are at hand. A node
whose inputs are all settled is *ripe*: the driver looks it up and says `hit` or `miss`. A missed node must run, so the values
of its inputs must be *present*; settled inputs whose values are gone are run again. With all of them present it is *ready*.
"""

from __future__ import annotations

import enum
import heapq
from collections.abc import Callable, Iterable

__all__ = ["Order", "Scheduler", "State"]


class State(enum.Enum):
    WAITING = "waiting"  # for inputs to settle, or for values to look it up by
    RIPE = "ripe"
    MISSED = "missed"  # must run; waits for values of inputs
    READY = "ready"
    RUNNING = "running"
    SETTLED = "settled"
    FAILED = "failed"
    SKIPPED = "skipped"


_OPEN = (State.WAITING, State.RIPE, State.MISSED, State.READY, State.RUNNING)
_DEAD = (State.FAILED, State.SKIPPED)
Order = tuple[int, ...]


class _Node:
    __slots__ = ("awaited", "consumers", "must_run", "name", "needs", "order", "state", "uses")

    def __init__(self, name: str, order: Order) -> None:
        self.name, self.order = name, order
        self.needs: dict[str, _Node] = {}
        self.consumers: dict[str, _Node] = {}
        self.awaited: set[str] = set()  # needs that have to settle before this node moves on
        self.state = State.WAITING
        self.must_run = False
        self.uses = 0  # consumers that may still read the value


class Scheduler:
    """Which nodes are ripe and ready, and whose values are held; `present` says whether the value of a settled node is at hand."""

    def __init__(self, present: Callable[[str], bool]) -> None:
        self._present = present
        self._nodes: dict[str, _Node] = {}
        self._ripe: list[tuple[Order, str]] = []
        self._ready: list[tuple[Order, str]] = []
        self._changes: list[tuple[str, bool]] = []
        self._open = 0

    def __contains__(self, name: object) -> bool:
        return name in self._nodes

    @property
    def finished(self) -> bool:
        """Whether no node waits or runs any more."""
        return self._open == 0

    def state(self, name: str) -> State:
        return self._nodes[name].state

    def unfinished(self) -> list[str]:
        return [node.name for node in self._nodes.values() if node.state in _OPEN]

    def add(self, name: str, needs: Iterable[str], order: Order) -> None:
        """A new node, after those it needs; of several that could be next, the lowest order comes first."""
        node = self._nodes[name] = _Node(name, order)
        self._open += 1
        self._await(node, needs)

    def need(self, name: str, needs: Iterable[str]) -> None:
        """A ripe node turns out to need more inputs, and is ripe again when they are settled."""
        self._await(self._in(name, State.RIPE), needs)

    def need_values(self, name: str, needs: Iterable[str]) -> None:
        """A ripe node can only be looked up by the values of some of its inputs, and is ripe again when they are present."""
        node = self._in(name, State.RIPE)
        node.state = State.WAITING
        self._demand(node, [node.needs[need] for need in needs])

    def expand(self, name: str, needs: Iterable[str]) -> None:
        """A running node stands for others now: it needs them instead, and is ready again, to be put together, when they are present."""
        node = self._in(name, State.RUNNING)
        node.must_run = True
        for need in node.needs.values():
            del need.consumers[name]
            self._release(need)
        node.needs = {}
        self._await(node, needs)

    def take_ripe(self) -> str | None:
        return self._take(self._ripe, State.RIPE)

    def take_ready(self) -> str | None:
        """The next node to run, which counts as running from now on."""
        name = self._take(self._ready, State.READY)
        if name is not None:
            self._nodes[name].state = State.RUNNING
        return name

    def peek_ready(self) -> bool:
        """Whether there is a node to run."""
        while self._ready and self._nodes[self._ready[0][1]].state is not State.READY:
            heapq.heappop(self._ready)
        return bool(self._ready)

    def hit(self, name: str) -> None:
        """A ripe node need not run."""
        self._settle(self._in(name, State.RIPE))

    def miss(self, name: str) -> None:
        """A ripe node must run."""
        node = self._in(name, State.RIPE)
        node.must_run = True
        self._prepare(node)

    def done(self, name: str) -> None:
        """A running node has finished and its value is present."""
        self._settle(self._in(name, State.RUNNING))

    def lost(self, name: str, reader: str | None = None) -> None:
        """The value of a settled node is unusable: it runs again, and nodes about to read it wait, also `reader`, just taken."""
        node = self._nodes[name]
        waiting = False
        for each in node.consumers.values():
            if each.state in (State.READY, State.MISSED) or (each.name == reader and each.state is State.RUNNING):
                each.state = State.MISSED
                each.awaited.add(name)
                waiting = True
        if waiting:
            self._revive(node)

    def fail(self, name: str) -> list[str]:
        """A node has failed; the nodes that needed it are skipped, and their names returned."""
        return self._end(self._nodes[name], State.FAILED)

    def cancel(self) -> list[str]:
        """Nothing new starts any more; returns the nodes that still run and must be reported as done or failed."""
        for node in self._nodes.values():
            if node.state in _OPEN and node.state is not State.RUNNING:
                self._close(node, State.SKIPPED)
        return [node.name for node in self._nodes.values() if node.state is State.RUNNING]

    def changes(self) -> list[tuple[str, bool]]:
        """Whose values became needed (True) or will not be read again (False) since last asked, in order."""
        changes, self._changes = self._changes, []
        return changes

    def _in(self, name: str, state: State) -> _Node:
        node = self._nodes[name]
        if node.state is not state:
            raise RuntimeError(f"node {name} is {node.state.value}, not {state.value}")
        return node

    def _take(self, heap: list[tuple[Order, str]], state: State) -> str | None:
        while heap:
            name = heapq.heappop(heap)[1]
            if self._nodes[name].state is state:
                return name
        return None

    def _await(self, node: _Node, needs: Iterable[str]) -> None:
        node.state = State.WAITING
        dead = False
        for name in needs:
            if name in node.needs:
                continue
            need = node.needs[name] = self._nodes[name]
            need.consumers[node.name] = node
            self._use(need)
            if need.state in _DEAD:
                dead = True
            elif need.state is not State.SETTLED:
                node.awaited.add(name)
        if dead:
            self._end(node, State.SKIPPED)
        elif not node.awaited:
            self._advance(node)

    def _advance(self, node: _Node) -> None:
        """Nothing is awaited any more."""
        if node.must_run:
            self._prepare(node)
        else:
            node.state = State.RIPE
            heapq.heappush(self._ripe, (node.order, node.name))

    def _prepare(self, node: _Node) -> None:
        node.state = State.MISSED
        self._demand(node, node.needs.values())

    def _demand(self, node: _Node, needs: Iterable[_Node]) -> None:
        for need in needs:
            if need.state is State.SETTLED and not self._present(need.name):
                self._revive(need)
            if need.state in _DEAD:
                self._end(node, State.SKIPPED)
                return
            if need.state is not State.SETTLED:
                node.awaited.add(need.name)
        if node.awaited:
            return
        if node.state is State.WAITING:
            self._advance(node)
        else:
            self._make_ready(node)

    def _revive(self, node: _Node) -> None:
        """Run a settled node again, and whatever else is gone that it needs; a list instead of recursion, because chains are long."""
        stack = [node]
        while stack:
            each = stack.pop()
            if each.state is not State.SETTLED:
                continue
            each.state, each.must_run = State.MISSED, True
            self._open += 1
            for name, need in each.needs.items():
                self._use(need)
                if need.state is not State.SETTLED:
                    each.awaited.add(name)
                elif not self._present(name):
                    each.awaited.add(name)
                    stack.append(need)
            if any(need.state in _DEAD for need in each.needs.values()):
                self._end(each, State.SKIPPED)
            elif not each.awaited:
                self._make_ready(each)

    def _make_ready(self, node: _Node) -> None:
        node.state = State.READY
        heapq.heappush(self._ready, (node.order, node.name))

    def _settle(self, node: _Node) -> None:
        self._close(node, State.SETTLED)
        if node.uses:
            self._changes.append((node.name, True))
        for each in list(node.consumers.values()):
            if node.name in each.awaited:
                each.awaited.discard(node.name)
                if not each.awaited and each.state in (State.WAITING, State.MISSED):
                    self._advance(each)

    def _end(self, node: _Node, state: State) -> list[str]:
        self._close(node, state)
        skipped: list[str] = []
        stack = list(node.consumers.values())
        while stack:
            each = stack.pop()
            if each.state in _OPEN and each.state is not State.RUNNING:
                self._close(each, State.SKIPPED)
                skipped.append(each.name)
                stack.extend(each.consumers.values())
        return skipped

    def _close(self, node: _Node, state: State) -> None:
        if node.state not in _OPEN:
            return
        node.state = state
        self._open -= 1
        for need in node.needs.values():
            self._release(need)

    def _use(self, node: _Node) -> None:
        node.uses += 1
        if node.uses == 1 and node.state is State.SETTLED:
            self._changes.append((node.name, True))

    def _release(self, node: _Node) -> None:
        node.uses -= 1
        if node.uses == 0:
            self._changes.append((node.name, False))
