"""Small nodes of every kind of declaration, for the tests of the engine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar

from pydantic import Field

from graph_engine.node import File, Linked, Node
from graph_engine.sockets import Lazy

if TYPE_CHECKING:
    from graph_engine.context import Context

T = TypeVar("T")
Unit = Annotated[float, Field(ge=0, le=1, description="between nothing and all", json_schema_extra={"step": 0.05})]
Pixels = Annotated[int, Field(ge=16, le=4096, multiple_of=8)]


@dataclass(frozen=True)
class Picture:
    socket: ClassVar[str] = "PICTURE"
    shade: float = 0.0


@dataclass(frozen=True)
class Photo(Picture):
    """A special kind of picture, which goes wherever a picture goes."""

    socket: ClassVar[str] = "PHOTO"


@dataclass(frozen=True)
class Stencil:
    socket: ClassVar[str] = "STENCIL"


class Blank(Node, category="picture", title="Blank picture"):
    """A picture of one shade."""

    width: Pixels = 64
    shade: Unit = 0.5

    def run(self, ctx: Context) -> Picture:
        return Picture(self.shade)


class Snapshot(Node, category="picture"):
    def run(self, ctx: Context) -> Photo:
        return Photo(0.25)


class Blur(Node, category="picture"):
    """Mixes a picture with grey."""

    picture: Picture
    amount: Unit = 0.1
    mode: Literal["soft", "hard"] = "soft"

    def run(self, ctx: Context) -> Picture:
        return Picture(self.picture.shade * (1 - self.amount) + 0.5 * self.amount)


class Split(Node, category="picture"):
    """A picture and where it is dark."""

    picture: Picture

    class Out(NamedTuple):
        stencil: Annotated[Stencil, Field(description="where it is dark")]
        picture: Picture

    def run(self, ctx: Context) -> Out:
        return self.Out(Stencil(), self.picture)


class Stencilled(Node, category="picture"):
    picture: Picture
    stencil: Stencil | None = None

    def run(self, ctx: Context) -> Picture:
        return self.picture


class Develop(Node, category="picture"):
    """Takes photos only."""

    photo: Photo

    def run(self, ctx: Context) -> Picture:
        return self.photo


class Stack(Node, category="picture"):
    pictures: list[Picture]

    def run(self, ctx: Context) -> Picture:
        return self.pictures[0]


class Burst(Node, category="picture"):
    count: Annotated[int, Field(gt=0, lt=10)] = 3

    def run(self, ctx: Context) -> list[Picture]:
        return [Picture(n / 10) for n in range(self.count)]


class Show(Node, category="picture", output=True):
    picture: Picture
    prefix: Annotated[str, Field(max_length=20)] = "show"

    def run(self, ctx: Context) -> None:
        return None


class Whole(Node, category="number"):
    value: int

    def run(self, ctx: Context) -> int:
        return self.value


class Real(Node, category="number"):
    value: float

    def run(self, ctx: Context) -> float:
        return self.value


class Total(Node, category="number"):
    values: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=4)]

    def run(self, ctx: Context) -> int:
        return sum(self.values)


class Word(Node, category="text"):
    text: Annotated[str, Field(json_schema_extra={"multiline": True})]

    def run(self, ctx: Context) -> str:
        return self.text


class Tell(Node, category="text", output=True):
    what: Any

    def run(self, ctx: Context) -> None:
        return None


class Switch(Node, category="flow"):
    """One of two values of the same type; the other is never computed."""

    first: bool
    one: Lazy[T]
    other: Lazy[T]

    def wants(self) -> Iterable[str]:
        return ["one" if self.first else "other"]

    def run(self, ctx: Context) -> T:
        return self.one if self.first else self.other  # type: ignore[no-any-return]


class Open(Node, category="file"):
    file: Annotated[str, File("checkpoints", embedded=(("tiny", "graph_engine:registry.py"),))]

    def run(self, ctx: Context) -> str:
        return self.file


class Look(Node, category="file"):
    file: Annotated[str, File("input", upload=True)] | None = None

    def run(self, ctx: Context) -> Picture:
        return Picture()


class Turn(Node, category="picture", version=3):
    """Was told in quarters, then in radians, now in degrees."""

    picture: Picture
    degrees: float = 0.0

    def run(self, ctx: Context) -> Picture:
        return self.picture

    @classmethod
    def migrate(cls, version: int, inputs: dict[str, Any]) -> dict[str, Any]:
        if version == 1:
            inputs["degrees"] = 90.0 * inputs.pop("quarters")
        else:
            inputs["degrees"] = 180.0 * inputs.pop("pi")
        return inputs


class Crop(Node, category="picture"):
    """Objects to an empty range, and to photos."""

    picture: Picture
    start: int = 0
    stop: int = 10

    def run(self, ctx: Context) -> Picture:
        return self.picture

    @classmethod
    def check(cls, inputs: Mapping[str, Any]) -> Iterable[str | tuple[str, str]]:
        if inputs["start"] >= inputs["stop"]:
            yield "stop", "must be above start"
        if isinstance(inputs["picture"], Linked) and "PHOTO" in inputs["picture"].types:
            yield f"photos are not cropped (see {inputs['picture'].node}.{inputs['picture'].output})"


class Old(Node, category="picture", deprecated=True, name="Old picture"):
    def run(self, ctx: Context) -> Picture:
        return Picture()


ALL: tuple[type[Node], ...] = tuple(
    value for value in list(vars().values()) if isinstance(value, type) and issubclass(value, Node) and value is not Node
)
