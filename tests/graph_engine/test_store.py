"""The disk tier: survives a restart, keeps to its budget, and takes whatever is damaged for a miss."""

from __future__ import annotations

import os
import sqlite3
import time

import pytest
from fakes import Blob, FakeDevice, Tensor

from graph_engine.codec import encode
from graph_engine.keys import nonce
from graph_engine.record import Record
from graph_engine.store import Saved, Store


@pytest.fixture
def open_store(tmp_path):
    made = []

    def make(budget=1 << 30, environment="e", device=None):
        made.append(Store(tmp_path / "cache", device or FakeDevice(), budget, environment))
        return made[-1]

    yield make
    for store in made:
        store.close()


def saved(value, key=None, seconds=1.0):
    skeleton, tensors = encode(value)
    return Saved(key or nonce(), Record((b"0" * 16,), seconds, 10), skeleton, tuple(tensors))


def blob(size, value=1):
    return (Blob(Tensor(bytes([value]) * size, "fake"), "b"),)


def files(tmp_path):
    return sorted(path for path in (tmp_path / "cache" / "results").rglob("*") if path.is_file())


def test_results_survive_a_restart(open_store, tmp_path):
    one, two = saved(blob(100)), saved((1, "two"))
    store = open_store()
    store.write([one, two])
    store.close()
    again = open_store()
    assert again.record(one.key) == (one.record, True)
    value = again.load(one.key)
    assert value[0].x.data == b"\x01" * 100
    assert value[0].x.device.type == "fake"
    assert again.load(two.key) == (1, "two")
    assert len(files(tmp_path)) == 1  # values without tensors stay in the index


def test_another_environment_finds_nothing(open_store):
    one = saved(blob(10))
    open_store(environment="torch 2.11").write([one])
    assert open_store(environment="torch 2.12").record(one.key) is None


def test_a_record_without_a_value_is_told_apart(open_store):
    store, key = open_store(), nonce()
    store.write([Saved(key, Record(()))])
    assert store.record(key) == (Record(()), False)
    assert store.load(key) is None


@pytest.mark.parametrize(
    "damage", [lambda p: p.write_bytes(b""), lambda p: p.unlink(), lambda p: p.write_bytes(p.read_bytes()[:-4] + b"0000")]
)
def test_a_damaged_file_is_a_miss(open_store, tmp_path, damage):
    one = saved(blob(100))
    store = open_store()
    store.write([one])
    damage(files(tmp_path)[0])
    assert store.load(one.key) is None
    assert store.record(one.key) == (one.record, False)


@pytest.mark.parametrize("column", ["skeleton = '{'", "record = '['"])
def test_a_damaged_row_is_a_miss(open_store, tmp_path, column):
    one = saved((1,))
    store = open_store()
    store.write([one])
    store._base.execute(f"UPDATE result SET {column}")
    assert store.load(one.key) is None or store.record(one.key) is None


def test_a_damaged_index_is_made_anew(open_store, tmp_path):
    store = open_store()
    store.write([saved((1,))])
    store.close()
    (tmp_path / "cache" / "results.sqlite").write_bytes(b"this is no database" * 100)
    fresh, one = open_store(), saved((2,))
    fresh.write([one])
    assert fresh.load(one.key) == (2,)


def test_a_format_of_another_version_is_cleared(open_store, tmp_path):
    one = saved((1,))
    store = open_store()
    store.write([one])
    store._base.execute("PRAGMA user_version = 99")
    store.close()
    assert open_store().record(one.key) is None


def test_the_budget_holds_and_the_least_worth_goes_first(open_store, tmp_path):
    store = open_store(budget=2500)
    cheap, dear = saved(blob(400), seconds=0.001), saved(blob(400), seconds=10)
    store.write([cheap, dear])
    more = [saved(blob(400), seconds=5) for _ in range(3)]
    store.write(more)
    used = store._base.execute("SELECT sum(bytes) FROM result").fetchone()[0]
    assert used <= 2500
    assert store.load(cheap.key) is None
    assert store.load(dear.key) is not None
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 2500


def test_what_a_killed_process_left_is_swept(open_store, tmp_path):
    store, one = open_store(), saved(blob(10))
    store.write([one])
    place = tmp_path / "cache" / "results" / "ab"
    place.mkdir(exist_ok=True)
    old, new = place / "left.safetensors.1.part", place / "other.safetensors.2.part"
    for path in (old, new):
        path.write_text("half")
    os.utime(old, (time.time() - 7200,) * 2)
    store.close()
    assert open_store().load(one.key) is not None
    assert not old.exists()
    assert new.exists()  # may just be being written


def test_a_failed_write_leaves_nothing_behind(open_store, tmp_path):
    class Full(FakeDevice):
        def save_tensors(self, path, tensors):
            path.write_text("half")
            raise OSError("no space left on device")

    store, one = open_store(device=Full()), saved(blob(10))
    with pytest.raises(OSError, match="no space"):
        store.write([saved((1,)), one])
    assert not files(tmp_path)
    assert store.record(one.key) is None


def test_what_nodes_asked_for_is_kept(open_store):
    store, key = open_store(), nonce()
    store.write_asked([(key, ("a", "b"))])
    assert store.asked(key) == ("a", "b")
    store.write_asked([(key, ())])
    assert store.asked(key) == ()
    assert store.asked(nonce()) is None


def test_two_processes_share_a_folder(open_store):
    one, other = open_store(), open_store()
    first, second = saved(blob(10)), saved(blob(20))
    one.write([first])
    other.write([second])
    assert one.load(second.key)[0].x.data == b"\x01" * 20
    assert other.load(first.key) is not None


def test_a_locked_index_says_so(tmp_path, open_store, monkeypatch):
    store = open_store()
    store._base.execute("PRAGMA busy_timeout = 1")
    with sqlite3.connect(tmp_path / "cache" / "results.sqlite", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            store.write([saved((1,))])
        other.execute("ROLLBACK")
    other.close()
