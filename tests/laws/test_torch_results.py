"""Law: real tensors survive every tier bit for bit - kinds, shapes, strides as values, shared memory - and results do not change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from diffusion.memory import TorchDevice
from graph_engine.builder import Graph
from graph_engine.context import Context
from graph_engine.engine import Engine
from graph_engine.node import Node
from graph_engine.registry import Registry

KINDS = ("float32", "float16", "bfloat16", "float64", "int64", "uint8", "bool", "complex64")
ran: list[str] = []


@dataclass(frozen=True, slots=True, eq=False)
class Tensors:
    socket: ClassVar[str] = "TENSORS"
    by_name: dict[str, torch.Tensor]
    rest: tuple[torch.Tensor | None, ...] = ()


class Make(Node, category="test"):
    seed: int = 0
    size: int = 200

    def run(self, ctx: Context) -> Tensors:
        ran.append(ctx.node)
        drawn = torch.rand(self.size, 6, generator=ctx.rng(self.seed)) * 7
        by_name = {kind: drawn.to(getattr(torch, kind)) for kind in KINDS}
        odd = (drawn.T, drawn[::2, 1:3], drawn[0].expand(4, 6), torch.empty(0, 3), torch.tensor(1.5), torch.tensor([torch.nan, -0.0]), None)
        return Tensors(by_name, odd)


class Next(Node, category="test"):
    given: Tensors
    add: float = 1.0

    def run(self, ctx: Context) -> Tensors:
        ran.append(ctx.node)
        return Tensors({kind: x if kind == "bool" else x + int(self.add) for kind, x in self.given.by_name.items()}, self.given.rest)


class Spoil(Node, category="test"):
    given: Tensors

    def run(self, ctx: Context) -> Tensors:
        self.given.by_name["float32"].mul_(0)
        return self.given


def open_engine(**options):
    return Engine(Registry.of(Make, Next, Spoil), device=TorchDevice("cpu"), debug=True, **options)


def graph(engine, add=2.0):
    g = Graph(engine.registry)
    g.Next(given=g.Next(given=g.Make(_id="a"), _id="b"), add=add, _id="c")
    return g


def bits(value):
    tensors = [*value.by_name.values(), *value.rest]
    return [None if x is None else (str(x.dtype), tuple(x.shape), x.contiguous().flatten().view(torch.uint8).tolist()) for x in tensors]


@pytest.mark.parametrize("limit", [None, 0, 1, 20_000])
def test_bits_are_the_same_through_every_tier(tmp_path, limit):
    with open_engine(cache_bytes=0) as plain:
        expected = {id: bits(plain.run(graph(plain), wanted=["a", "b", "c"])[id]) for id in "abc"}
    with open_engine(cache_dir=tmp_path, cache_bytes=limit) as first:
        first.run(graph(first), wanted=["c"])
        again = first.run(graph(first), wanted=["a", "b", "c"])
        assert {id: bits(again[id]) for id in "abc"} == expected
    ran.clear()
    with open_engine(cache_dir=tmp_path, cache_bytes=limit) as second:
        result = second.run(graph(second), wanted=["a", "b", "c"])
        assert {id: bits(result[id]) for id in "abc"} == expected
        assert (result.executed, ran) == ((), [])
        assert second.run(graph(second, add=5.0), wanted=["c"]).executed == ("c",)


def test_in_place_changes_of_real_tensors_are_found():
    with open_engine() as engine:
        g = Graph(engine.registry)
        made = g.Make()
        g.Spoil(given=made, _id="spoil")
        g.Next(given=made, _id="next")
        result = engine.run(g, wanted=["spoil", "next"])
        assert [(failure.node, failure.reason) for failure in result.failures] == [("spoil", "mutation")]
        assert result["next"].by_name["float32"].sum() > 100
