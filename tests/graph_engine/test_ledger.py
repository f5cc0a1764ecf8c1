from hypothesis import given
from hypothesis import strategies as st

from graph_engine.ledger import Entry, Ledger
from graph_engine.record import Record

STORAGES = st.dictionaries(st.tuples(st.sampled_from(["device", "host"]), st.integers(0, 4)), st.just(0), max_size=3)
STEPS = st.lists(st.tuples(st.binary(min_size=1, max_size=1), STORAGES, st.sampled_from(["", "A", "B"])), max_size=12)


def sized(storages):
    return {at: 10 * (at[1] + 1) for at in storages}


@given(steps=STEPS, pinned=st.sets(st.binary(min_size=1, max_size=1)))
def test_the_rows_of_a_place_add_up_to_what_it_holds(steps, pinned):
    ledger = Ledger()
    for key, storages, title in steps:
        if (old := ledger.get(key)) is not None:
            ledger.remove(old)
        else:
            ledger.add(Entry(key, (), Record(()), title, held=(sized(storages), 0)))
        for place in ("device", "host"):
            held = {at: size for entry in ledger for at, size in entry.storages.items() if at[0] == place}
            rows = ledger.rows(place, pinned)
            assert sum(size for _, size in rows) == sum(held.values()) == ledger.used[place]
            assert all(size > 0 for _, size in rows)
            assert rows == sorted(rows, key=lambda row: -row[1])


def test_small_holders_are_told_together():
    ledger = Ledger()
    for number in range(5):
        held = ({("host", number): number + 1}, 0)
        ledger.add(Entry(bytes([number]), (), Record(()), f"node {number}", held=held))
    assert ledger.rows("host", (), most=2) == [("result of node 4", 5), ("result of node 3", 4), ("3 other results", 6)]
    assert ledger.rows("host", [b"\x04"], most=1)[0] == ("result of node 4 (needed)", 5)
