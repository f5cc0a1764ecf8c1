"""Results by content key: exact accounting, one budget per tier, needed values pinned, kept ones leaving by (recompute seconds / bytes).

A kept value goes from the device to the host's memory, from there to disk, and from there away. What remains is its record.
"""

from __future__ import annotations

import sqlite3
import threading
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from graph_engine.codec import NotPlain, encode
from graph_engine.ledger import Entry, Ledger
from graph_engine.record import Record
from graph_engine.store import Saved
from graph_engine.walk import Storages, exchange, on_host

if TYPE_CHECKING:
    from graph_engine.device import Device
    from graph_engine.store import Store

__all__ = ["Cache"]

T = TypeVar("T")

_RECORDS = 200_000  # results remembered without their values
_LARGE = 1 << 20  # bytes from which the device is asked for room


class Cache:
    """What finished nodes made, in memory up to so many bytes on the device and on the host, and in a Store. Safe to use from any thread.

    Without any bytes and no store nothing is kept once no node needs it.
    """

    def __init__(self, device: Device, limit: int, host_limit: int | None = None, store: Store | None = None) -> None:
        self._device, self._store = device, store
        self._limits = {"device": limit, "host": limit if host_limit is None else host_limit}
        self._home = "host" if device.name.startswith("cpu") else "device"
        self._lock = threading.RLock()
        self._ledger = Ledger()
        self._pins: dict[bytes, int] = {}
        self._records: dict[bytes, Record] = {}
        self._asked: dict[bytes, tuple[str, ...]] = {}
        self._stored: set[bytes] = set()  # results whose value is known to be in the store
        self._unsaved: set[bytes] = set()  # records that the store does not have yet
        self._unsaved_asked: dict[bytes, tuple[str, ...]] = {}
        device.add_tenant(self)

    @property
    def keeps(self) -> bool:
        """Whether anything outlives the run that made it."""
        return any(self._limits.values()) or self._store is not None

    def used(self, place: str) -> int:
        """Bytes held on the "device" or the "host"; a storage that several values share counts once."""
        return self._ledger.used[place]

    def lookup(self, key: bytes) -> Record | None:
        """What is known of a result, whether or not its value is at hand."""
        with self._lock:
            record = self._records.get(key)
            if record is None and self._store is not None and (found := self._store.record(key)) is not None:
                record = found[0]
                _remember(self._records, key, record)
                if found[1]:
                    self._stored.add(key)
            return record

    def present(self, key: bytes) -> bool:
        """Whether the value of a result can be had without computing it."""
        with self._lock:
            if key in self._ledger:
                return True
            record = self.lookup(key)
            return key in self._stored or (record is not None and not record.identities)

    def get(self, key: bytes) -> tuple[Any, ...] | None:
        """The value, brought back to where it was made; None when it is gone."""
        with self._lock:
            entry = self._ledger.get(key)
            if entry is not None:
                if not entry.moved:
                    return entry.value
                self._bring_back(entry)
                value, record = entry.value, entry.record
            else:
                known = self.lookup(key)
                if known is not None and not known.identities:
                    return ()
                if known is None or key not in self._stored or self._store is None:
                    return None
                loaded = self._store.load(key)
                if loaded is None:
                    self._stored.discard(key)
                    return None
                value, record = loaded, known
                self._add(Entry(key, value, record))
        self._make_room(record.bytes)
        return value

    def peek(self, key: bytes) -> tuple[Any, ...] | None:
        """The value if it is in memory, wherever it lies."""
        with self._lock:
            entry = self._ledger.get(key)
            return None if entry is None else entry.value

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
            _remember(self._records, key, record)
            if not transient:
                self._unsaved.add(key)
            self._stored.discard(key)
            if (old := self._ledger.get(key)) is not None:
                self._ledger.remove(old)
            if value:
                self._add(Entry(key, value, record, title, transient, held))
        self._make_room(record.bytes)

    def discard(self, key: bytes) -> None:
        """Drop a value that must not be used again."""
        with self._lock:
            if (entry := self._ledger.get(key)) is not None:
                self._ledger.remove(entry)
            if key in self._stored and self._store is not None:
                self._store.forget(key)
            self._stored.discard(key)

    def discard_sharing(self, key: bytes) -> None:
        """Drop a value that was written into, and all others that share memory with it."""
        with self._lock:
            if (entry := self._ledger.get(key)) is not None:
                for other in self._ledger.sharing(entry):
                    self.discard(other.key)
            self.discard(key)

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
            if (entry := self._ledger.get(key)) is not None:
                if entry.transient or not self.keeps:
                    self._ledger.remove(entry)
                else:
                    self._ledger.offer(entry)
                    self._trim()

    def asked(self, key: bytes) -> tuple[str, ...] | None:
        """Which lazy inputs a node asked for, given the inputs that this key stands for."""
        with self._lock:
            if (names := self._asked.get(key)) is None and self._store is not None:
                names = self._store.asked(key)
            return names

    def remember_asked(self, key: bytes, names: tuple[str, ...]) -> None:
        with self._lock:
            _remember(self._asked, key, names)
            if self._store is not None:
                self._unsaved_asked[key] = names

    def flush(self) -> None:
        """Write what is kept and not yet on disk, so that it survives this process."""
        with self._lock:
            if self._store is None:
                return
            saved = []
            for key in self._unsaved:
                entry, record = self._ledger.get(key), self._records.get(key)
                if record is not None:
                    saved.append(_saved(entry) if entry is not None else Saved(key, record))
            self._write(saved)
            asked, self._unsaved_asked = self._unsaved_asked, {}
            self._guarded(lambda store: store.write_asked(asked.items()))

    def clear(self) -> None:
        """Forget everything in memory that nobody needs."""
        with self._lock:
            for entry in self._ledger:
                if entry.key not in self._pins:
                    self._ledger.remove(entry)
            for known in (self._records, self._asked, self._stored, self._unsaved, self._unsaved_asked):
                known.clear()

    def close(self) -> None:
        """Let go of all memory and of the store."""
        with self._lock:
            self._store = None
            self._pins.clear()
            self.clear()

    def shed(self, bytes: int) -> int:
        """Free about this many bytes of the device, kept values of least worth first; how many were freed."""
        with self._lock:
            before = self.used(self._home)
            while before - self.used(self._home) < bytes and self._evict(self._home):
                pass
            self._trim()
            return before - self.used(self._home)

    def residents(self) -> list[tuple[str, int]]:
        """Results on the device, the largest by name."""
        with self._lock:
            return self._ledger.rows(self._home, self._pins)

    def _add(self, entry: Entry) -> None:
        self._ledger.add(entry)
        if entry.key not in self._pins:
            self._ledger.offer(entry)

    def _make_room(self, size: int) -> None:
        """After a value came in: keep within the limits, and within the device's budget that weights share."""
        with self._lock:
            if not self.keeps:
                return
            self._trim()
        if size >= _LARGE:
            self._device.reserve(0)

    def _trim(self) -> None:
        for place, limit in self._limits.items():
            while self._ledger.used[place] > limit and self._evict(place):
                pass

    def _evict(self, place: str) -> bool:
        """Move the unpinned value of least worth one tier down; False when there is none."""
        entry = self._ledger.least(place, self._pins)
        if entry is None:
            return False
        if place == "device" and self._limits["host"]:
            self._bring_down(entry)
        else:
            if self._store is not None and entry.key not in self._stored:
                self._write([_saved(entry)])
            self._ledger.remove(entry)
        return True

    def _bring_down(self, entry: Entry) -> None:
        moved: set[int] = set()

        def down(tensor: Any) -> Any:
            if on_host(tensor):
                return tensor
            host = self._device.to_host(tensor)
            moved.add(id(host))
            return host

        value = exchange(entry.value, down)
        self._ledger.exchange(entry, value, entry.moved | moved)
        self._ledger.offer(entry)

    def _bring_back(self, entry: Entry) -> None:
        up, moved = self._device.to_device, entry.moved
        value = exchange(entry.value, lambda tensor: up(tensor) if id(tensor) in moved else tensor)
        self._ledger.exchange(entry, value, frozenset())
        if entry.key not in self._pins:
            self._ledger.offer(entry)

    def _write(self, saved: list[Saved]) -> None:
        if self._guarded(lambda store: store.write(saved)):
            self._stored.update(each.key for each in saved if each.skeleton is not None)
            self._unsaved.difference_update(each.key for each in saved)

    def _guarded(self, write: Callable[[Store], None]) -> bool:
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


def _remember(known: dict[bytes, T], key: bytes, value: T) -> None:
    known.pop(key, None)
    known[key] = value
    if len(known) > _RECORDS:
        del known[next(iter(known))]
