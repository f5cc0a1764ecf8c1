"""Nodes that do something, for the tests of execution. `calls` notes what ran."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

from fakes import Blob, Tensor

from graph_engine.entry import Link, NodeEntry
from graph_engine.errors import NodeError
from graph_engine.node import File, Node
from graph_engine.registry import Registry
from graph_engine.sockets import Lazy

if TYPE_CHECKING:
    from graph_engine.context import Context

T = TypeVar("T")
calls: list[str] = []
gates: dict[str, threading.Event] = {}


class Number(Node, category="test"):
    value: int = 0

    def run(self, ctx: Context) -> int:
        calls.append(ctx.node)
        return self.value


class Add(Node, category="test"):
    a: int
    b: int = 1

    def run(self, ctx: Context) -> int:
        calls.append(ctx.node)
        return self.a + self.b


class Halve(Node, category="test"):
    """Loses the lowest bit, so that different inputs give the same result."""

    a: int

    def run(self, ctx: Context) -> int:
        calls.append(ctx.node)
        return self.a // 2


class Half(Node, category="test"):
    a: float

    def run(self, ctx: Context) -> float:
        return self.a / 2


class Count(Node, category="test"):
    n: int = 3

    def run(self, ctx: Context) -> list[int]:
        calls.append(ctx.node)
        return list(range(self.n))


class Sum(Node, category="test"):
    values: list[int]

    def run(self, ctx: Context) -> int:
        calls.append(ctx.node)
        return sum(self.values)


class DivMod(Node, category="test"):
    a: int
    b: int = 3

    class Out(NamedTuple):
        quotient: int
        rest: int

    def run(self, ctx: Context) -> Out:
        return self.Out(*divmod(self.a, self.b))


class Repeat(Node, category="test"):
    a: int
    n: int = 2

    def run(self, ctx: Context) -> list[int]:
        return [self.a] * self.n


class Choose(Node, category="test"):
    first: bool
    one: Lazy[T]
    other: Lazy[T]

    def wants(self) -> Iterable[str]:
        return ["one" if self.first else "other"]

    def run(self, ctx: Context) -> T:
        calls.append(ctx.node)
        return self.one if self.first else self.other  # type: ignore[no-any-return]


class Until(Node, category="test"):
    """Asks for one lazy input after the other, until the sum is large enough."""

    enough: int
    a: Lazy[int] = 0
    b: Lazy[int] = 0
    c: Lazy[int] = 0

    def wants(self) -> Iterable[str]:
        names = ["a", "b", "c"]
        total = 0
        for i, name in enumerate(names):
            if total >= self.enough:
                return names[:i]
            total += getattr(self, name)
            if not getattr(self, name):
                return names[: i + 1]
        return names

    def run(self, ctx: Context) -> int:
        calls.append(ctx.node)
        return self.a + self.b + self.c


class Show(Node, category="test", output=True):
    what: Any

    def run(self, ctx: Context) -> None:
        calls.append(ctx.node)
        ctx.show(text=str(self.what))


class Write(Node, category="test", output=True):
    what: int
    prefix: str = "number"

    def run(self, ctx: Context) -> None:
        calls.append(ctx.node)
        ctx.save(self.prefix, ".txt", lambda file: file.write(str(self.what).encode()) and None, media="text/plain")


class Fail(Node, category="test"):
    a: int = 0
    why: str = "no luck"

    def run(self, ctx: Context) -> int:
        calls.append(ctx.node)
        raise NodeError(self.why)


class Random(Node, category="test", cache=False):
    """Is never the same computation twice; what it gives is."""

    a: int = 0

    def run(self, ctx: Context) -> int:
        calls.append(ctx.node)
        return self.a


class Steps(Node, category="test"):
    """Goes on until it is told to stop."""

    n: int = 1_000_000
    a: int = 0

    def run(self, ctx: Context) -> int:
        calls.append(ctx.node)
        for i in range(self.n):
            ctx.step(i + 1, self.n)
            time.sleep(0.0005)
        return self.n


class Later(Node, category="test"):
    seconds: float = 0.01
    a: int = 0

    async def run(self, ctx: Context) -> int:
        calls.append(f"{ctx.node} begins")
        await asyncio.sleep(self.seconds)
        calls.append(f"{ctx.node} ends")
        return self.a


class Meet(Node):
    """Waits until its partner has come: ends only when two of these run at the same time."""

    here: str
    there: str

    def meet(self, ctx: Context) -> None:
        gates[self.here].set()
        assert gates[self.there].wait(10), "nobody came"


class MeetHere(Meet, category="test"):
    a: int = 0

    def run(self, ctx: Context) -> int:
        self.meet(ctx)
        return self.a


class MeetAside(Meet, category="test", output=True):
    a: int = 0

    def run(self, ctx: Context) -> None:
        self.meet(ctx)


class MakeBlob(Node, category="test"):
    size: int = 100
    value: int = 1
    place: str = "fake"

    def run(self, ctx: Context) -> Blob:
        calls.append(ctx.node)
        return Blob(Tensor(bytes([self.value % 256]) * self.size, self.place), f"blob {self.value}")


class Invert(Node, category="test"):
    blob: Blob

    def run(self, ctx: Context) -> Blob:
        calls.append(ctx.node)
        return Blob(Tensor(bytes(255 - b for b in self.blob.x.data), self.blob.x.device.type), self.blob.name)


class Same(Node, category="test"):
    """Hands on its input: the same memory under another key."""

    blob: Blob

    def run(self, ctx: Context) -> Blob:
        calls.append(ctx.node)
        return self.blob


class Spoil(Node, category="test"):
    """Writes into its input, which no node may."""

    blob: Blob

    def run(self, ctx: Context) -> Blob:
        self.blob.x.fill_(7)
        return self.blob


class Read(Node, category="test"):
    blob: Blob
    a: int = 0

    def run(self, ctx: Context) -> int:
        calls.append(ctx.node)
        return sum(self.blob.x.data)


class Hungry(Node, category="test"):
    """Runs out of memory so many times."""

    times: int = 1
    a: int = 0

    def run(self, ctx: Context) -> int:
        calls.append(ctx.node)
        if calls.count(ctx.node) <= self.times:
            raise MemoryError("no more memory")
        return self.a


class ReadFile(Node, category="test"):
    name: Annotated[str, File("input")]

    def run(self, ctx: Context) -> str:
        calls.append(ctx.node)
        return ctx.path("input", self.name).read_text()


class Text(Node, category="test"):
    text: str = ""

    def run(self, ctx: Context) -> str:
        return self.text


class Twice(Node, category="test"):
    """Expands to two additions, one behind the other."""

    a: int

    def run(self, ctx: Context) -> int:
        calls.append(ctx.node)
        first = NodeEntry("Add", {"a": ctx.constant(self.a), "b": 1})
        second = NodeEntry("Add", {"a": Link("first"), "b": 1})
        return ctx.expand({"first": first, "second": second}, Link("second"))  # type: ignore[return-value]


class Down(Node, category="test"):
    """Counts down by expanding to itself: a loop whose length nobody knows."""

    n: int
    total: int = 0

    def run(self, ctx: Context) -> int:
        if self.n == 0:
            return self.total
        add = NodeEntry("Add", {"a": ctx.constant(self.total), "b": ctx.constant(self.n)})
        again = NodeEntry("Down", {"n": self.n - 1, "total": Link("add")})
        return ctx.expand({"add": add, "again": again}, Link("again"))  # type: ignore[return-value]


class Forever(Node, category="test"):
    """Expands to itself with the same inputs."""

    a: int = 0

    def run(self, ctx: Context) -> int:
        return ctx.expand({"same": NodeEntry("Forever", {"a": self.a})}, Link("same"))  # type: ignore[return-value]


class WriteInside(Node, category="test"):
    """Expands to a number, and beside it a node with effects."""

    a: int

    def run(self, ctx: Context) -> int:
        calls.append(ctx.node)
        nodes = {"made": NodeEntry("Add", {"a": self.a}), "kept": NodeEntry("Write", {"what": Link("made")})}
        return ctx.expand(nodes, Link("made"))  # type: ignore[return-value]


class Gather(Node, category="test"):
    """Expands to a list of sums."""

    n: int

    def run(self, ctx: Context) -> list[int]:
        nodes = {str(i): NodeEntry("Add", {"a": i, "b": i}) for i in range(self.n)}
        return ctx.expand(nodes, [[Link(id) for id in nodes]])  # type: ignore[return-value]


class Around(Node, category="test"):
    """How many nodes stand beside it."""

    def run(self, ctx: Context) -> int:
        calls.append(ctx.node)
        return len(ctx.graph.scope(ctx.node))


class Nothing(Node, category="test"):
    def run(self, ctx: Context) -> int:
        return ctx.blocked("there is nothing here")  # type: ignore[no-any-return]


ALL: tuple[type[Node], ...] = tuple(
    value
    for value in list(vars().values())
    if isinstance(value, type) and issubclass(value, Node) and "spec" in vars(value) and value is not Meet
)


def registry() -> Registry:
    return Registry.of(*ALL)
