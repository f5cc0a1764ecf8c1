"""Looking into values: tensors found in order, storages counted once, exchanged by place, summed up in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
from fakes import Blob, Tensor

from graph_engine.walk import exchange, storages, summary, tensors, versions


@dataclass(frozen=True, slots=True)
class Slotted:
    x: Tensor
    rest: tuple[Any, ...] = ()


class Pair(NamedTuple):
    one: Tensor
    other: int


def test_tensors_are_found_in_every_kind_of_container_in_order():
    a, b, c, d = (Tensor(bytes([i])) for i in range(4))
    value = (Slotted(a, ({"k": b}, 3)), [Pair(c, 1), {"deep": [Blob(d)]}], "text", None)
    assert list(tensors(value)) == [a, b, c, d]


def test_a_shared_storage_counts_once_and_a_view_counts_whole():
    whole = Tensor(b"x" * 100)
    found, other = storages((whole, whole.part(0, 10), Blob(whole.part(50, 60), "name")))
    assert sum(found.values()) == 100
    assert other == 16 + len("name")


def test_places_are_told_apart():
    found, _ = storages([Tensor(b"abc", "fake"), Tensor(b"de")])
    assert sorted((place, size) for (place, _), size in found.items()) == [("device", 3), ("host", 2)]


def test_versions_move_when_somebody_writes():
    value = {"a": Tensor(b"abc"), "b": [Tensor(b"d")]}
    before = versions(value)
    value["b"][0].fill_(1)
    assert [new - old for old, new in zip(before, versions(value), strict=True)] == [0, 1]


def test_exchange_changes_each_tensor_once_and_shares_the_rest():
    a = Tensor(b"a")
    untouched = Blob(Tensor(b"u"))
    value = (Slotted(a, (a, Pair(a, 2))), [a], {"k": a}, untouched)
    copies: list[Tensor] = []

    def copy(tensor):
        if tensor is untouched.x:
            return tensor
        copies.append(Tensor(tensor.data))
        return copies[-1]

    changed = exchange(value, copy)
    assert len(copies) == 1
    assert all(tensor is copies[0] for tensor in list(tensors(changed))[:5])
    assert type(changed[0]) is Slotted
    assert type(changed[0].rest[1]) is Pair
    assert changed[3] is untouched
    assert value[0].x is a


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        ("a" * 100, repr("a" * 57 + "...")),
        (Blob(Tensor(b"abc"), "n"), "Blob(x=uint8[3], name='n')"),
        ([1, 2, 3], "[1, 2, ...] (3)"),
        (object, "type"),
    ],
)
def test_a_value_in_words(value, text):
    assert summary(value) == text


def test_real_tensors_are_understood():
    torch = pytest.importorskip("torch")
    x = torch.zeros(4, 5)
    found, _ = storages((x, x[1:], x.T))
    assert sum(found.values()) == 80
    assert summary(x) == "float32[4, 5]"
    before = versions(x)
    x[0].add_(1)
    assert versions(x) != before
    with torch.inference_mode():
        assert versions(torch.ones(1)) == [-1]
    assert storages(torch.eye(3).to_sparse())[0]
