"""Nodes for the tests of the protocol: they show something, take steps, fail, expand, and declare inputs of every kind."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from graph_engine.device import HostDevice
from graph_engine.engine import Engine
from graph_engine.entry import Link, NodeEntry
from graph_engine.errors import NodeError
from graph_engine.events import Event
from graph_engine.files import Folders
from graph_engine.node import File, Node
from graph_engine.registry import Registry

if TYPE_CHECKING:
    from graph_engine.context import Context


@dataclass(frozen=True)
class Sheet:
    socket: ClassVar[str] = "SHEET"


class Number(Node, category="test"):
    value: Annotated[int, Field(ge=0, le=100)] = 0

    def run(self, ctx: Context) -> int:
        return self.value


class Add(Node, category="test"):
    a: int
    b: int = 1

    def run(self, ctx: Context) -> int:
        return self.a + self.b


class Halve(Node, category="test"):
    """Different inputs, same result: what follows is found in the cache only when this has run."""

    a: int

    def run(self, ctx: Context) -> int:
        return self.a // 2


class Count(Node, category="test"):
    n: int = 3

    def run(self, ctx: Context) -> list[int]:
        return list(range(self.n))


class Stepped(Node, category="test", cache=False):
    a: int = 0
    steps: int = 3
    seconds: float = 0.0

    def run(self, ctx: Context) -> int:
        for step in range(self.steps):
            time.sleep(self.seconds / self.steps)
            ctx.step(step + 1, self.steps, lambda: b"\xff\xd8")
        return self.a


class Show(Node, category="test", output=True):
    what: Any

    def run(self, ctx: Context) -> None:
        ctx.show(text=str(self.what))


class Keep(Node, category="test", output=True):
    """Writes a file, with nothing else to show."""

    what: Any
    suffix: str = ".png"
    media: str = "image/png"

    def run(self, ctx: Context) -> None:
        ctx.save("kept", self.suffix, lambda file: file.write(b"x"), media=self.media)


class Quiet(Node, category="test", output=True):
    what: Any

    def run(self, ctx: Context) -> None:
        return None


class Fail(Node, category="test"):
    a: int = 0
    why: str = "no luck"

    def run(self, ctx: Context) -> int:
        raise NodeError(self.why)


class Both(Node, category="test", output=True):
    """Stands for two nodes that show something each."""

    a: int

    def run(self, ctx: Context) -> None:
        nodes = {f"s{i}": NodeEntry("Show", {"what": Link("n", 0)}) for i in range(2)}
        return ctx.expand({"n": NodeEntry("Number", {"value": self.a}), **nodes}, [])  # type: ignore[return-value]


class Fussy(Node, category="test", output=True):
    """One input of every kind that can be wrong."""

    sheet: Sheet
    size: Annotated[int, Field(ge=16, le=64, multiple_of=8)] = 16
    ratio: Annotated[float, Field(gt=0, lt=1)] = 0.5
    mode: Literal["soft", "hard"] = "soft"
    many: Literal[tuple(f"choice {i}" for i in range(30))] = "choice 0"  # type: ignore[valid-type]
    on: bool = False
    name: Annotated[str, Field(min_length=2, max_length=5, pattern="^[a-z]*$")] = "abc"
    picture: Annotated[str, File("input")] = "there.png"
    numbers: list[int] = [1]

    def run(self, ctx: Context) -> None:
        return None


class Pair(Node, category="test", output=True):
    """Its class objects to inputs, to one of them and to both together."""

    a: int = 0
    b: int = 0

    @classmethod
    def check(cls, inputs: Mapping[str, Any]) -> Iterable[str | tuple[str, str]]:
        if inputs.get("a") == 13:
            yield "a", "brings bad luck"
        if inputs.get("a") == 7 and inputs.get("b") == 7:
            yield "a and b are too lucky together"
        if inputs.get("b") == 99:
            raise ValueError("the check itself breaks")

    def run(self, ctx: Context) -> None:
        return None


class Paper(Node, category="test"):
    def run(self, ctx: Context) -> Sheet:
        return Sheet()


NODES = (Number, Add, Halve, Count, Stepped, Show, Keep, Quiet, Fail, Both, Fussy, Pair, Paper)
REGISTRY = Registry.of(*NODES)
SPECS = REGISTRY.specs


def engine(folders: Folders | None = None) -> Engine:
    return Engine(REGISTRY, device=HostDevice(1 << 30), folders=folders)


def doc(**nodes: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """API JSON; `"@a"` is a link to the first output of node a."""

    def read(value: Any) -> Any:
        return [value[1:], 0] if isinstance(value, str) and value.startswith("@") else value

    return {
        id: {"class_type": type, "inputs": {name: read(value) for name, value in inputs.items()}} for id, (type, inputs) in nodes.items()
    }


def events_of(engine: Engine, document: dict[str, Any], **options: Any) -> list[Event]:
    events: list[Event] = []
    engine.run(document, on_event=events.append, run="r", **options)
    return events
