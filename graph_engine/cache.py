"""Results by content key: exact accounting, one budget per tier, needed values pinned, kept ones leaving by (recompute seconds / bytes).

A kept value goes from the device to the host's memory, from there to disk, and from there away. What remains is its record.
"""

from __future__ import annotations

import heapq
import itertools
import sqlite3
import threading
import warnings
from typing import TYPE_CHECKING, Any

from graph_engine.codec import NotPlain, encode
from graph_engine.record import Record
from graph_engine.store import Saved
from graph_engine.walk import Storages, exchange, on_host, storages

if TYPE_CHECKING:
    from graph_engine.device import Device
    from graph_engine.store import Store

__all__ = ["Cache", "Entry"]

_RECORDS = 200_000  # results remembered without their values
_LARGE = 1 << 20  # bytes from which the device is asked for room


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

    def hold(self, value: tuple[Any, ...]) -> None:
        self.value = value
        self.storages, self.other = storages(value)

    @property
    def place(self) -> str:
        return "device" if any(place == "device" for place, _ in self.storages) else "host"

    @property
    def places(self) -> set[str]:
        """Every place that would have more room without the value."""
        return {place for place, _ in self.storages} or {"host"}


class Cache:
    """What finished nodes made, in memory up to so many bytes on the device and on the host, and in a Store.

    Without any bytes and no store nothing is kept once no node needs it.
    """

    def __init__(self, device: Device, limit: int, host_limit: int | None = None, store: Store | None = None) -> None:
        self._device, self._store = device, store
        self._limits = {"device": limit, "host": limit if host_limit is None else host_limit}
        self._home = "host" if device.name.startswith("cpu") else "device"
        self._lock = threading.RLock()
        self._entries: dict[bytes, Entry] = {}
        self._records: dict[bytes, Record] = {}
        self._stored: set[bytes] = set()  # results whose value is known to be in the store
        self._unsaved: set[bytes] = set()  # records that the store does not have yet
        self._asked: dict[bytes, tuple[str, ...]] = {}
        self._unsaved_asked: dict[bytes, tuple[str, ...]] = {}
        self._pins: dict[bytes, int] = {}
        self._used = {"device": 0, "host": 0}
        self._shares: dict[tuple[str, int], int] = {}  # how many entries hold a storage
        self._heaps: dict[str, list[tuple[float, int, bytes]]] = {"device": [], "host": []}
        self._ticks = itertools.count()
        device.add_tenant(self)

    @property
    def keeps(self) -> bool:
        """Whether anything outlives the run that made it."""
        return any(self._limits.values()) or self._store is not None

    def used(self, place: str) -> int:
        """Bytes held on the "device" or the "host"; a storage that several values share counts once."""
        return self._used[place]

    def lookup(self, key: bytes) -> Record | None:
        """What is known of a result, whether or not its value is at hand."""
        with self._lock:
            record = self._records.get(key)
            if record is None and self._store is not None and (found := self._store.record(key)) is not None:
                record = found[0]
                self._remember(key, record)
                if found[1]:
                    self._stored.add(key)
            return record

    def present(self, key: bytes) -> bool:
        """Whether the value of a result can be had without computing it."""
        with self._lock:
            if key in self._entries:
                return True
            record = self.lookup(key)
            return key in self._stored or (record is not None and not record.identities)

    def get(self, key: bytes) -> tuple[Any, ...] | None:
        """The value, brought back to where it was made; None when it is gone."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                if entry.moved:
                    self._return(entry)
                return entry.value
            record = self.lookup(key)
            if record is not None and not record.identities:
                return ()
            if key not in self._stored or self._store is None or record is None:
                return None
            value = self._store.load(key)
            if value is None:
                self._stored.discard(key)
                return None
            self._insert(Entry(key, value, record))
        self._settle(record.bytes)
        return value

    def put(
        self,
        key: bytes,
        value: tuple[Any, ...],
        record: Record,
        *,
        title: str = "",
        transient: bool = False,
        held: tuple[Storages, int] | None = None,
    ) -> None:
        """Take in what a node made, pinned; a transient value leaves as soon as nobody needs it. `held` is `storages(value)` if known."""
        with self._lock:
            self.pin(key)
            self._remember(key, record)
            if not transient:
                self._unsaved.add(key)
            self._stored.discard(key)
            if (old := self._entries.get(key)) is not None:
                self._remove(old)
            if value:
                self._insert(Entry(key, value, record, title, transient, held))
        self._settle(record.bytes)

    def discard(self, key: bytes) -> None:
        """Drop a value that must not be used again."""
        with self._lock:
            if (entry := self._entries.get(key)) is not None:
                self._remove(entry)
            if key in self._stored and self._store is not None:
                self._store.forget(key)
            self._stored.discard(key)

    def discard_sharing(self, key: bytes) -> None:
        """Drop a value that was written into, and all others that share memory with it."""
        with self._lock:
            if (entry := self._entries.get(key)) is not None:
                touched = entry.storages.keys()
                for other in [each.key for each in self._entries.values() if not touched.isdisjoint(each.storages)]:
                    self.discard(other)
            self.discard(key)

    def peek(self, key: bytes) -> tuple[Any, ...] | None:
        """The value if it is in memory, wherever it lies."""
        with self._lock:
            entry = self._entries.get(key)
            return None if entry is None else entry.value

    def pin(self, key: bytes) -> None:
        """Somebody needs the value: it stays until `unpin` was called as often."""
        with self._lock:
            self._pins[key] = self._pins.get(key, 0) + 1

    def unpin(self, key: bytes) -> None:
        with self._lock:
            self._pins[key] -= 1
            if self._pins[key]:
                return
            del self._pins[key]
            if (entry := self._entries.get(key)) is not None:
                if entry.transient or not self.keeps:
                    self._remove(entry)
                else:
                    self._offer(entry)
                    self._trim()

    def asked(self, key: bytes) -> tuple[str, ...] | None:
        """Which lazy inputs a node asked for, given the inputs that this key stands for."""
        with self._lock:
            if (names := self._asked.get(key)) is None and self._store is not None:
                names = self._store.asked(key)
            return names

    def remember_asked(self, key: bytes, names: tuple[str, ...]) -> None:
        with self._lock:
            _bounded(self._asked, key, names)
            if self._store is not None:
                self._unsaved_asked[key] = names

    def flush(self) -> None:
        """Write what is kept and not yet on disk, so that it survives this process."""
        with self._lock:
            if self._store is None:
                return
            saved = []
            for key in [*self._unsaved]:
                entry, record = self._entries.get(key), self._records.get(key)
                if record is not None:
                    saved.append(_saved(entry) if entry is not None else Saved(key, record))
            self._write(saved)
            asked, self._unsaved_asked = self._unsaved_asked, {}
            self._guarded(lambda store: store.write_asked(asked.items()))

    def clear(self) -> None:
        """Forget everything in memory that nobody needs."""
        with self._lock:
            for entry in list(self._entries.values()):
                if entry.key not in self._pins:
                    self._remove(entry)
            for known in (self._records, self._asked):
                known.clear()
            self._stored.clear()
            self._unsaved.clear()

    def close(self) -> None:
        """Let go of all memory and of the store."""
        with self._lock:
            self._store = None
            self._pins.clear()
            self.clear()

    def shed(self, bytes: int) -> int:
        """Free about this many bytes of the device, kept values of least worth first; how many were freed."""
        with self._lock:
            before = self._used[self._home]
            while before - self._used[self._home] < bytes and self._evict(self._home):
                pass
            self._trim()
            return before - self._used[self._home]

    def residents(self) -> list[tuple[str, int]]:
        """Results on the device, the largest by name."""
        with self._lock:
            seen: set[tuple[str, int]] = set()
            rows: dict[str, int] = {}
            for entry in self._entries.values():
                here = [at for at in entry.storages if at[0] == self._home and at not in seen]
                seen.update(here)
                name = f"result of {entry.title or 'an earlier run'}{' (needed)' if entry.key in self._pins else ''}"
                rows[name] = rows.get(name, 0) + sum(entry.storages[at] for at in here)
        ranked = sorted(((name, size) for name, size in rows.items() if size), key=lambda row: -row[1])
        rest = sum(size for _, size in ranked[20:])
        return [*ranked[:20], *([(f"{len(ranked) - 20} other results", rest)] if rest else [])]

    def _remember(self, key: bytes, record: Record) -> None:
        _bounded(self._records, key, record)

    def _insert(self, entry: Entry) -> None:
        self._entries[entry.key] = entry
        self._account(entry, 1)
        if entry.key not in self._pins:
            self._offer(entry)

    def _remove(self, entry: Entry) -> None:
        del self._entries[entry.key]
        self._account(entry, -1)

    def _account(self, entry: Entry, sign: int) -> None:
        if entry.place == "host":  # beside tensors on the device the rest is next to nothing, and moving them would not free it
            self._used["host"] += sign * entry.other
        for at, size in entry.storages.items():
            shares = self._shares.get(at, 0) + sign
            if shares:
                self._shares[at] = shares
            else:
                del self._shares[at]
            if shares == (1 if sign > 0 else 0):
                self._used[at[0]] += sign * size

    def _offer(self, entry: Entry) -> None:
        """Let a value leave when room is needed."""
        worth = max(entry.record.seconds, 1e-6) / max(entry.record.bytes, 1)
        for place in entry.places:
            heapq.heappush(self._heaps[place], (worth, next(self._ticks), entry.key))

    def _settle(self, size: int) -> None:
        """After a value came in: keep within the limits, and within the device's budget that weights share."""
        with self._lock:
            if not self.keeps:
                return
            self._trim()
        if size >= _LARGE:
            self._device.reserve(0)

    def _trim(self) -> None:
        for place in ("device", "host"):
            while self._used[place] > self._limits[place] and self._evict(place):
                pass

    def _evict(self, place: str) -> bool:
        """Move the unpinned value of least worth one tier down; False when there is none."""
        heap = self._heaps[place]
        while heap:
            entry = self._entries.get(heapq.heappop(heap)[2])
            if entry is None or entry.key in self._pins or place not in entry.places:
                continue  # since then it has left, moved, or become needed
            if place == "device" and self._limits["host"]:
                self._move(entry)
            else:
                self._spill(entry)
            return True
        return False

    def _move(self, entry: Entry) -> None:
        moved: set[int] = set()

        def down(tensor: Any) -> Any:
            if on_host(tensor):
                return tensor
            host = self._device.to_host(tensor)
            moved.add(id(host))
            return host

        self._account(entry, -1)
        entry.hold(exchange(entry.value, down))
        entry.moved = frozenset(moved)
        self._account(entry, 1)
        self._offer(entry)

    def _return(self, entry: Entry) -> None:
        self._account(entry, -1)
        moved = entry.moved
        entry.hold(exchange(entry.value, lambda tensor: self._device.to_device(tensor) if id(tensor) in moved else tensor))
        entry.moved = frozenset()
        self._account(entry, 1)
        if entry.key not in self._pins:
            self._offer(entry)

    def _spill(self, entry: Entry) -> None:
        if self._store is not None and entry.key not in self._stored:
            self._write([_saved(entry)])
        self._remove(entry)

    def _write(self, saved: list[Saved]) -> None:
        if self._guarded(lambda store: store.write(saved)):
            self._stored.update(each.key for each in saved if each.skeleton is not None)
            self._unsaved.difference_update(each.key for each in saved)

    def _guarded(self, write: Any) -> bool:
        """Write to the store; a disk that does not take it costs the store, never the run."""
        if self._store is None:
            return False
        try:
            write(self._store)
        except (OSError, sqlite3.Error) as error:
            self._store = None
            self._stored.clear()
            warnings.warn(f"results are no longer kept on disk: {error}", RuntimeWarning, stacklevel=2)
            return False
        return True


def _saved(entry: Entry) -> Saved:
    try:
        skeleton, tensors = encode(entry.value, entry.moved)
    except NotPlain:
        return Saved(entry.key, entry.record)
    return Saved(entry.key, entry.record, skeleton, tuple(tensors))


def _bounded(known: dict[bytes, Any], key: bytes, value: Any) -> None:
    known.pop(key, None)
    known[key] = value
    if len(known) > _RECORDS:
        del known[next(iter(known))]
