"""What the probe says of a picture: for each object and for the whole, a label and how sure it is; and whether that is a scene."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from toybox.draw import CELL
from toybox.shapes import SUBJECTS

if TYPE_CHECKING:
    from toybox.scenes import Obj, Scene

OF_OBJECT = ("shape", "color", "size", "style", "position")
OF_PICTURE = ("count", "background_color", "texture", "finish")
ATTRIBUTES = OF_OBJECT + OF_PICTURE


@dataclass(frozen=True, slots=True)
class Guess:
    """A label and its probability."""

    label: str
    probability: float


@dataclass(frozen=True, slots=True)
class ObjectReading:
    """One object as the probe sees it; a subject's colour reads "several"."""

    shape: Guess
    color: Guess
    size: Guess
    style: Guess
    position: Guess

    @property
    def subject(self) -> str | None:
        """Which of the world's subjects this object is, if it is one."""
        return self.shape.label if self.shape.label in SUBJECTS else None

    def agreement(self, obj: Obj) -> dict[str, bool]:
        """Attribute by attribute, whether this is that object. A subject brings its own colour and style: those always agree."""
        own = ("color", "style") if obj.shape in SUBJECTS else ()
        return {name: name in own or getattr(self, name).label == getattr(obj, name) for name in OF_OBJECT}


@dataclass(frozen=True, slots=True)
class Reading:
    """A picture as the probe sees it; `objects` go row by row from the top, in a row from the left."""

    objects: tuple[ObjectReading, ...]
    count: Guess
    background_color: Guess
    texture: Guess
    finish: Guess

    def assign(self, scene: Scene) -> tuple[ObjectReading | None, ...]:
        """For each object of the scene the seen object that agrees best with it, each used once; None where none is left."""
        seen: list[ObjectReading | None] = [*self.objects]
        seen += [None] * max(0, len(scene.objects) - len(seen))

        def agreeing(order: Sequence[ObjectReading | None]) -> int:
            pairs = zip(order, scene.objects, strict=True)
            return sum(sum(found.agreement(obj).values()) for found, obj in pairs if found is not None)

        return max(itertools.permutations(seen, len(scene.objects)), key=agreeing)

    def agreement(self, scene: Scene) -> dict[str, bool]:
        """Attribute by attribute, whether the picture shows the scene; an object attribute must agree for every object."""
        found = self.assign(scene)
        out = {name: all(f is not None and f.agreement(o)[name] for f, o in zip(found, scene.objects, strict=True)) for name in OF_OBJECT}
        return out | {
            "count": self.count.label == str(len(scene.objects)),
            "background_color": self.background_color.label == scene.background.color,
            "texture": self.texture.label == scene.background.texture,
            "finish": self.finish.label == scene.finish,
        }

    def matches(self, scene: Scene, attributes: Sequence[str] = ATTRIBUTES) -> bool:
        """Whether the picture shows the scene in all the named attributes. ValueError for an attribute that is none."""
        if unknown := [name for name in attributes if name not in ATTRIBUTES]:
            raise ValueError(f"unknown attribute {unknown[0]!r}; known: {', '.join(ATTRIBUTES)}")
        agreement = self.agreement(scene)
        return all(agreement[name] for name in attributes)

    def relation(self, scene: Scene) -> str | None:
        """How the scene's first object is seen to stand to its second, by the cells they are read in; None where none prevails."""
        found = self.assign(scene)
        if len(found) < 2 or found[0] is None or found[1] is None:
            return None
        (x0, y0), (x1, y1) = (CELL[f.position.label] for f in found if f is not None)
        dx, dy = x1 - x0, y1 - y0
        if abs(dx) == abs(dy):
            return None
        if abs(dx) > abs(dy):
            return "left of" if dx > 0 else "right of"
        return "above" if dy > 0 else "below"

    def as_dict(self) -> dict[str, object]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)
