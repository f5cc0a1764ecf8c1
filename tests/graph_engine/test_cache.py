"""The cache: exact accounting, nothing needed is lost, the rest goes device -> host -> disk -> away by worth."""

from __future__ import annotations

import pytest
from fakes import Blob, FakeDevice, Tensor
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from graph_engine.cache import Cache
from graph_engine.keys import nonce
from graph_engine.record import Record
from graph_engine.store import Store
from graph_engine.walk import storages


def blob(size, place="fake", value=1):
    return (Blob(Tensor(bytes([value]) * size, place)),)


def record(value, seconds=1.0):
    found, other = storages(value)
    return Record((b"0" * 16,) * len(value), seconds, sum(found.values()) + other)


def put(cache, value, seconds=1.0, key=None, pinned=False, **options):
    key = key or nonce()
    cache.put(key, value, record(value, seconds), **options)
    if not pinned:
        cache.unpin(key)
    return key


def place(cache, key):
    entry = cache._ledger.get(key)
    return None if entry is None else entry.place


def test_a_value_comes_back_as_it_was():
    cache = Cache(FakeDevice(), 1000)
    value = blob(100)
    key = put(cache, value)
    assert cache.get(key) is value
    assert cache.present(key)
    assert cache.lookup(key) == record(value)
    assert cache.used("device") == 100


def test_shared_memory_counts_once_until_the_last_holder_goes():
    cache = Cache(FakeDevice(), 1000)
    x = Tensor(b"x" * 100, "fake")
    one, two = put(cache, (Blob(x),)), put(cache, (Blob(x.part(0, 10)), 5))
    assert cache.used("device") == 100
    cache.discard(one)
    assert cache.used("device") == 100
    cache.discard(two)
    assert cache.used("device") == 0
    assert cache.used("host") == 0


def test_the_cheapest_to_make_again_per_byte_leaves_first():
    cache = Cache(FakeDevice(), 250, 10_000)
    dear, cheap = put(cache, blob(100), seconds=10), put(cache, blob(100), seconds=0.1)
    put(cache, blob(100), seconds=1)
    assert place(cache, dear) == "device"
    assert place(cache, cheap) == "host"
    assert cache.used("device") == 200


def test_large_values_pay_more_for_staying():
    cache = Cache(FakeDevice(), 250, 10_000)
    large, small = put(cache, blob(200), seconds=1), put(cache, blob(20), seconds=1)
    put(cache, blob(100), seconds=1)
    assert place(cache, large) == "host"
    assert place(cache, small) == "device"


def test_what_comes_back_from_the_host_is_on_the_device_again():
    device = FakeDevice()
    cache = Cache(device, 150, 10_000)
    mixed = (Blob(Tensor(b"d" * 100, "fake")), Blob(Tensor(b"h" * 10, "cpu")))
    key = put(cache, mixed, seconds=0.1)
    other = put(cache, blob(100), seconds=5)
    assert place(cache, key) == "host"
    assert cache.used("host") == 110 + 2 * 16
    cache.pin(key)  # as a run does with what it reads
    value = cache.get(key)
    assert [each.x.device.type for each in value] == ["fake", "cpu"]
    assert [each.x.data for each in value] == [b"d" * 100, b"h" * 10]
    assert (place(cache, key), place(cache, other)) == ("device", "host")
    assert device.moves == ["down", "up", "down"]


def test_pinned_values_stay_however_short_memory_is():
    cache = Cache(FakeDevice(), 50)
    keys = [put(cache, blob(100), pinned=True) for _ in range(5)]
    assert cache.used("device") == 500
    assert cache.shed(1000) == 0
    assert all(cache.get(key) is not None for key in keys)
    for key in keys:
        cache.unpin(key)
    assert cache.used("device") == 0


def test_pins_are_counted():
    cache = Cache(FakeDevice(), 0, 0)
    key = put(cache, blob(100), pinned=True)
    cache.pin(key)
    cache.unpin(key)
    assert cache.present(key)
    cache.unpin(key)
    assert not cache.present(key)


def test_without_memory_and_disk_nothing_is_kept():
    cache = Cache(FakeDevice(), 0, 0)
    assert not cache.keeps
    key = put(cache, blob(10))
    assert cache.get(key) is None


def test_a_transient_value_leaves_when_nobody_needs_it():
    cache = Cache(FakeDevice(), 1000)
    key = put(cache, blob(10), pinned=True, transient=True)
    assert cache.present(key)
    cache.unpin(key)
    assert not cache.present(key)


def test_shedding_frees_what_was_asked_for_and_says_how_much():
    cache = Cache(FakeDevice(), 1000, 1000)
    for _ in range(5):
        put(cache, blob(100))
    assert cache.shed(150) == 200
    assert cache.used("device") == 300
    assert cache.used("host") == 200 + 2 * 16


def test_the_device_reclaims_room_for_others():
    device = FakeDevice(budget=300)
    cache = Cache(device, 1000, 1000)
    put(cache, blob(200))
    device.reserve(250)
    assert cache.used("device") == 0


def test_residents_add_up_and_name_the_largest():
    cache = Cache(FakeDevice(), 1 << 20)
    x = Tensor(b"x" * 1000, "fake")
    put(cache, (Blob(x),), title="big")
    put(cache, (Blob(x.part(0, 5)),), title="view")
    for i in range(30):
        put(cache, blob(10 + i), title=f"small {i}")
    rows = cache.residents()
    assert rows[0] == ("result of big", 1000)
    assert sum(size for _, size in rows) == cache.used("device")
    assert len(rows) == 21


def test_tampered_values_take_those_that_share_their_memory_along():
    cache = Cache(FakeDevice(), 1000)
    x = Tensor(b"x" * 100, "fake")
    one, two, other = put(cache, (Blob(x),)), put(cache, (Blob(x.part(0, 10)),)), put(cache, blob(10))
    cache.discard_sharing(one)
    assert not cache.present(one)
    assert not cache.present(two)
    assert cache.present(other)


@pytest.fixture
def stored(tmp_path):
    made = []

    def make(limit, host_limit=None, device=None, budget=1 << 30):
        device = device or FakeDevice()
        store = Store(tmp_path, device, budget, "e")
        made.append(store)
        return Cache(device, limit, host_limit, store)

    yield make
    for store in made:
        store.close()


def test_what_leaves_memory_goes_to_disk_and_comes_back(stored):
    cache = stored(0, 0)
    key = put(cache, blob(100, value=7))
    assert place(cache, key) is None
    assert cache.present(key)
    value = cache.get(key)
    assert value[0].x.data == b"\x07" * 100
    assert value[0].x.device.type == "fake"


def test_a_device_value_demoted_to_the_host_knows_its_place_on_disk(stored):
    cache = stored(50, 150)
    key = put(cache, blob(100))
    assert place(cache, key) == "host"
    put(cache, blob(100, "cpu"), seconds=9)
    assert place(cache, key) is None
    assert cache.get(key)[0].x.device.type == "fake"


def test_flushed_results_and_records_survive_a_restart(stored):
    cache = stored(1000)
    key, empty = put(cache, blob(100)), nonce()
    put(cache, (), key=empty)
    cache.remember_asked(key, ("a",))
    cache.flush()
    again = stored(1000)
    assert again.lookup(key) == record(blob(100))
    assert again.present(key)
    assert again.present(empty)
    assert again.asked(key) == ("a",)
    assert again.get(key)[0].x.data == b"\x01" * 100


def test_transient_and_unwritable_values_are_not_written(stored):
    cache = stored(1000)
    transient = put(cache, blob(10), pinned=True, transient=True)
    odd = put(cache, (object(),))
    cache.flush()
    again = stored(1000)
    assert again.lookup(transient) is None
    assert again.lookup(odd) is not None
    assert not again.present(odd)


def test_a_full_disk_costs_the_disk_tier_only(stored):
    class Full(FakeDevice):
        def save_tensors(self, path, tensors):
            raise OSError("no space left on device")

    cache = stored(1000, device=Full())
    key = put(cache, blob(100))
    with pytest.warns(RuntimeWarning, match="no longer kept on disk: no space left"):
        cache.flush()
    assert cache.get(key) is not None
    cache.flush()


def test_a_discarded_value_is_gone_from_disk_too(stored):
    cache = stored(1000)
    key = put(cache, blob(100))
    cache.flush()
    cache.discard(key)
    assert not cache.present(key)
    assert not stored(1000).present(key)


class Accounts(RuleBasedStateMachine):
    """Whatever happens: the counters equal a fresh count, pinned values are there, and the limits hold for the rest."""

    @initialize(limit=st.sampled_from([0, 60, 200, 10_000]), host=st.sampled_from([0, 100, 10_000]))
    def open(self, limit, host):
        self.device = FakeDevice()
        self.cache = Cache(self.device, limit, host)
        self.limits = {"device": limit, "host": host}
        self.pins: dict[bytes, int] = {}
        self.values: dict[bytes, bytes] = {}
        self.tensors: list[Tensor] = []
        self.count = 0

    @rule(size=st.integers(1, 100), device=st.booleans(), share=st.booleans(), seconds=st.floats(0, 10), transient=st.booleans())
    def make(self, size, device, share, seconds, transient):
        if share and self.tensors:
            whole = self.tensors[size % len(self.tensors)]
            tensor = whole.part(0, max(1, min(size, whole.size)))
        else:
            tensor = Tensor(bytes([size]) * size, "fake" if device else "cpu")
            self.tensors = [*self.tensors[-5:], tensor]
        self.count += 1
        key = self.count.to_bytes(16, "little")
        put(self.cache, (Blob(tensor), size), seconds, key, pinned=True, transient=transient)
        self.pins[key] = 1
        self.values[key] = tensor.data

    @rule(pick=st.integers(0, 1000))
    def release(self, pick):
        if self.pins:
            key = sorted(self.pins)[pick % len(self.pins)]
            self.cache.unpin(key)
            self.pins[key] -= 1
            if not self.pins[key]:
                del self.pins[key]

    @rule(pick=st.integers(0, 1000))
    def need(self, pick):
        if self.values:
            key = sorted(self.values)[pick % len(self.values)]
            if self.cache.present(key):
                self.cache.pin(key)
                self.pins[key] = self.pins.get(key, 0) + 1

    @rule(bytes=st.integers(1, 300))
    def shed(self, bytes):
        before = self.cache.used("device")
        assert self.cache.shed(bytes) == before - self.cache.used("device")

    @rule(pick=st.integers(0, 1000))
    def read(self, pick):
        if self.values:
            key = sorted(self.values)[pick % len(self.values)]
            value = self.cache.get(key)
            assert (value is not None) == self.cache.present(key)
            assert value is None or value[0].x.data == self.values[key]

    @invariant()
    def adds_up(self):
        if not hasattr(self, "cache"):
            return
        found, other = {}, 0
        for entry in self.cache._ledger:
            held, more = storages(entry.value)
            found |= held
            other += more if entry.place == "host" else 0
        used = {place: sum(size for (at, _), size in found.items() if at == place) for place in ("device", "host")}
        assert self.cache.used("device") == used["device"]
        assert self.cache.used("host") == used["host"] + other
        assert all(self.cache.present(key) for key in self.pins)
        if not self.pins:
            assert all(self.cache.used(place) <= limit for place, limit in self.limits.items())


TestAccounts = Accounts.TestCase
TestAccounts.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
