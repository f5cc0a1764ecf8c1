"""Who holds how much memory where: values in memory, each storage counted once, and which value is worth least."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Collection, Iterator
from typing import Any

from graph_engine.record import Record
from graph_engine.walk import Storages, storages

__all__ = ["Entry", "Ledger"]


class Entry:
    """A value in memory."""

    __slots__ = ("key", "moved", "other", "record", "storages", "title", "transient", "value")

    def __init__(
        self,
        key: bytes,
        value: tuple[Any, ...],
        record: Record,
        title: str = "",
        transient: bool = False,
        held: tuple[Storages, int] | None = None,
    ) -> None:
        self.key, self.record, self.title = key, record, title
        self.transient = transient  # not kept once nobody needs it
        self.moved: frozenset[int] = frozenset()  # ids of tensors that belong on the device but lie on the host
        self.value = value
        self.storages, self.other = storages(value) if held is None else held

    @property
    def place(self) -> str:
        return "device" if any(place == "device" for place, _ in self.storages) else "host"

    @property
    def places(self) -> set[str]:
        """Every place that would have more room without the value."""
        return {place for place, _ in self.storages} or {"host"}


class Ledger:
    """The values in memory by key, the bytes they hold, and the order in which they may leave."""

    def __init__(self) -> None:
        self.used = {"device": 0, "host": 0}
        self._entries: dict[bytes, Entry] = {}
        self._shares: dict[tuple[str, int], int] = {}  # how many entries hold a storage
        self._holders: dict[tuple[str, int], tuple[bytes, str]] = {}  # the first value that held a storage: its key and title
        self._titles: dict[str, dict[str, int]] = {"device": {}, "host": {}}  # bytes by title
        self._heaps: dict[str, list[tuple[float, int, bytes]]] = {"device": [], "host": []}
        self._ticks = itertools.count()

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def get(self, key: bytes) -> Entry | None:
        return self._entries.get(key)

    def add(self, entry: Entry) -> None:
        self._entries[entry.key] = entry
        self._account(entry, 1)

    def remove(self, entry: Entry) -> None:
        del self._entries[entry.key]
        self._account(entry, -1)

    def exchange(self, entry: Entry, value: tuple[Any, ...], moved: frozenset[int]) -> None:
        """The same value, with tensors in other places."""
        self._account(entry, -1)
        entry.value, entry.moved = value, moved
        entry.storages, entry.other = storages(value)
        self._account(entry, 1)

    def offer(self, entry: Entry) -> None:
        """Let a value leave when room is needed; those that cost least to make again per byte go first, of equals the oldest."""
        worth = max(entry.record.seconds, 1e-6) / max(entry.record.bytes, 1)
        for place in entry.places:
            heapq.heappush(self._heaps[place], (worth, next(self._ticks), entry.key))

    def least(self, place: str, pinned: Collection[bytes]) -> Entry | None:
        """The value of least worth that was offered and holds memory in this place; it must be moved, removed or offered again."""
        heap = self._heaps[place]
        while heap:
            entry = self._entries.get(heapq.heappop(heap)[2])
            if entry is not None and entry.key not in pinned and place in entry.places:
                return entry  # any other has left, moved, or become needed since
        return None

    def sharing(self, entry: Entry) -> list[Entry]:
        """The values that hold some of the same memory, itself among them."""
        return [each for each in self if not entry.storages.keys().isdisjoint(each.storages)]

    def rows(self, place: str, pinned: Collection[bytes], most: int = 20) -> list[tuple[str, int]]:
        """Who holds how many bytes of a place, the largest by name; shared memory is told of its first holder.

        Takes time for titles and pinned values only, however many values there are.
        """
        rows = {f"result of {title}": size for title, size in self._titles[place].items()}
        for entry in map(self._entries.get, pinned):
            if entry is None:
                continue
            name = f"result of {_title(entry)}"
            size = sum(size for at, size in entry.storages.items() if at[0] == place and self._holders[at] == (entry.key, _title(entry)))
            rows[name] = rows.get(name, 0) - size
            rows[f"{name} (needed)"] = rows.get(f"{name} (needed)", 0) + size
        ranked = sorted(((name, size) for name, size in rows.items() if size), key=lambda row: -row[1])
        rest = sum(size for _, size in ranked[most:])
        return [*ranked[:most], *([(f"{len(ranked) - most} other results", rest)] if rest else [])]

    def _account(self, entry: Entry, sign: int) -> None:
        if entry.place == "host":  # beside tensors on the device the rest is next to nothing, and moving them would not free it
            self.used["host"] += sign * entry.other
        for at, size in entry.storages.items():
            shares = self._shares.get(at, 0) + sign
            if shares:
                self._shares[at] = shares
            else:
                del self._shares[at]
            if shares == (1 if sign > 0 else 0):
                self.used[at[0]] += sign * size
                self._attribute(at, entry, sign * size)

    def _attribute(self, at: tuple[str, int], entry: Entry, size: int) -> None:
        """Put a storage down to the value that was the first to hold it, or take it off its list."""
        _, title = self._holders.setdefault(at, (entry.key, _title(entry))) if size > 0 else self._holders.pop(at, (b"", _title(entry)))
        titles = self._titles[at[0]]
        titles[title] = titles.get(title, 0) + size
        if not titles[title]:
            del titles[title]


def _title(entry: Entry) -> str:
    return entry.title or "an earlier run"
