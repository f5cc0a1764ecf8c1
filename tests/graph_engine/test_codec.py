"""Values to plain JSON and tensors and back: exact, by content, and without trusting what is read."""

from __future__ import annotations

import enum
import json
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
from fakes import Blob, FakeDevice, Tensor
from hypothesis import given
from hypothesis import strategies as st

from graph_engine.codec import NotPlain, content_digest, decode, encode
from graph_engine.device import HostDevice

HOST = HostDevice(0)


class Colour(enum.Enum):
    RED = 1


class Pair(NamedTuple):
    a: Any
    b: Any


@dataclass(frozen=True, slots=True)
class Nested:
    inner: Any
    colour: Colour = Colour.RED


def back(value, device=HOST):
    skeleton, found = encode(value)
    return decode(skeleton, {str(i): tensor for i, tensor in enumerate(found)}, device.to_device)


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.frozensets(scalars)
        | st.builds(Nested, inner)
        | st.builds(Pair, inner, inner)
    ),
    max_leaves=15,
)


def same(a, b):
    """Equal, and of the same types all the way down; 1 is not True, and -0.0 is not 0.0."""
    return a == b and repr(a) == repr(b)


@given(values)
def test_what_is_read_is_what_was_written(value):
    found = back(value)
    assert type(found) is type(value)
    assert found == value
    if not isinstance(value, frozenset) and "frozenset" not in repr(value):
        assert repr(found) == repr(value)


@given(values, values)
def test_digests_are_equal_exactly_when_values_are(a, b):
    equal = content_digest(a, HOST) == content_digest(b, HOST)
    assert equal == (encode(a) == encode(b))
    assert content_digest(a, HOST) == content_digest(back(a), HOST)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.0, 2**70, "\ud800", b"\xff"])
def test_odd_scalars_survive(value):
    assert repr(back(value)) == repr(value)


def test_tensors_go_by_number_and_shared_ones_once():
    x = Tensor(b"abc")
    skeleton, found = encode((Blob(x), x))
    assert found == [x]
    made = decode(skeleton, {"0": x}, lambda tensor: tensor)
    assert made[0].x is made[1] is x


def test_tensors_of_the_device_go_back_there():
    device = FakeDevice()
    skeleton, found = encode([Tensor(b"a", "fake"), Tensor(b"b")])
    host = {str(i): Tensor(tensor.data) for i, tensor in enumerate(found)}
    assert [tensor.device.type for tensor in decode(skeleton, host, device.to_device)] == ["fake", "cpu"]


def test_digests_tell_contents_apart_and_nothing_else():
    device = FakeDevice()
    digests = [content_digest(Blob(Tensor(data)), device) for data in (b"abc", b"abc", b"abd", b"ab")]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def local():
    @dataclass(frozen=True)
    class Local:
        a: int = 1

    return Local()


@dataclass
class Loose:
    a: int = 1


@pytest.mark.parametrize("value", [object(), {1, 2}, lambda: 1, int, local(), type("Sub", (int,), {})(3)])
def test_what_has_no_plain_form_is_refused(value):
    with pytest.raises(NotPlain):
        encode([value])


def test_attributes_beside_the_fields_are_not_lost_in_silence():
    value = Loose()
    value.extra = 1
    with pytest.raises(NotPlain, match="attributes that are not fields"):
        encode(value)


@pytest.mark.parametrize(
    "skeleton",
    [
        "no json",
        '{"$tensor": 3, "device": false}',
        '{"$class": "os:system", "fields": {}}',
        '{"$class": "not.loaded:Thing", "fields": {}}',
        '{"$class": "builtins:dict", "fields": {}}',
        '{"$enum": "builtins:print", "name": "x"}',
        '{"$named": "subprocess:Popen", "fields": ["ls"]}',
        "{}",
        "[" * 100_000 + "]" * 100_000,
    ],
)
def test_damaged_or_hostile_text_builds_nothing(skeleton):
    with pytest.raises(NotPlain):
        decode(skeleton, {}, lambda tensor: tensor)


def test_a_class_with_other_fields_now_is_refused():
    plain = json.loads(encode(Loose())[0])
    plain["fields"]["b"] = 2
    with pytest.raises(NotPlain, match="other fields now"):
        decode(json.dumps(plain), {}, lambda tensor: tensor)


def test_real_tensors_of_every_kind_have_digests():
    torch = pytest.importorskip("torch")
    x = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    assert content_digest(x.T.contiguous(), HOST) == content_digest(x.T, HOST)
    assert content_digest(x.bfloat16(), HOST) != content_digest(x.half(), HOST)
    assert content_digest(x.reshape(4, 3), HOST) != content_digest(x, HOST)
    z = torch.complex(x, x)
    assert content_digest(z.conj(), HOST) != content_digest(z, HOST)
    assert content_digest(x.clone().requires_grad_(), HOST) == content_digest(x, HOST)
    assert content_digest(torch.empty(0), HOST) != content_digest(torch.empty(0, 2), HOST)
