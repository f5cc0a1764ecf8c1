"""The world's records: what a scene is, how one is drawn by lot, and how one is changed; `render` turns them into pictures."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass
from difflib import get_close_matches

from toybox.draw import CELL, FINISHES, RADIUS, jitter_of, place, render
from toybox.palette import COLORS
from toybox.shapes import HELD_OUT_SHAPES, SHAPES, SUBJECTS
from toybox.textures import HELD_OUT_TEXTURES, TEXTURES
from toybox.views import coarse_colors, composite, edges, segments, strokes

SIZES = tuple(RADIUS)
STYLES = ("flat", "outlined")
POSITIONS = tuple(CELL)
RELATIONS = ("left of", "right of", "above", "below")
REACH, MARGIN = 1.12, 3.0  # how far corners and tips pass the radius, and pixels of background between two objects

__all__ = [
    "COLORS", "FINISHES", "HELD_OUT_SHAPES", "HELD_OUT_TEXTURES", "POSITIONS", "RELATIONS", "SHAPES", "SIZES", "STYLES",
    "SUBJECTS", "TEXTURES", "Background", "Obj", "Scene", "coarse_colors", "composite", "edges", "render", "sample",
    "segments", "strokes",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Obj:
    """One object; a subject (see SUBJECTS) is a shape that brings its own colours."""

    shape: str
    color: str
    size: str = "medium"
    style: str = "flat"
    position: str = "center"

    def __post_init__(self) -> None:
        _known("shape", self.shape, SHAPES + HELD_OUT_SHAPES + SUBJECTS)
        _known("color", self.color, tuple(COLORS))
        _known("size", self.size, SIZES)
        _known("style", self.style, STYLES)
        _known("position", self.position, POSITIONS)


@dataclass(frozen=True, slots=True)
class Background:
    """What lies behind the objects."""

    color: str
    texture: str = "plain"

    def __post_init__(self) -> None:
        _known("color", self.color, tuple(COLORS))
        _known("texture", self.texture, TEXTURES + HELD_OUT_TEXTURES)


@dataclass(frozen=True, slots=True)
class Scene:
    """One or two objects before a background; the seed fixes every small accident (shift, tilt, tint, phase)."""

    objects: tuple[Obj, ...]
    background: Background
    seed: int = 0
    finish: str = "none"

    def __post_init__(self) -> None:
        if not 1 <= len(self.objects) <= 2:
            raise ValueError(f"a scene has one or two objects, not {len(self.objects)}")
        _known("finish", self.finish, FINISHES)

    def replace(
        self,
        object: int = 0,
        *,
        background_color: str | None = None,
        texture: str | None = None,
        finish: str | None = None,
        **attributes: str,
    ) -> Scene:
        """The counterfactual: this very scene but for the named attributes of one object, the background or the finish."""
        objects = list(self.objects)
        objects[object] = dataclasses.replace(objects[object], **attributes)
        background = Background(background_color or self.background.color, texture or self.background.texture)
        return Scene(tuple(objects), background, self.seed, finish or self.finish)

    @property
    def relation(self) -> str | None:
        """How object 0 stands to object 1, or None where neither axis prevails."""
        if len(self.objects) < 2:
            return None
        (x0, y0), (x1, y1) = (CELL[o.position] for o in self.objects)
        dx, dy = x1 - x0, y1 - y0
        if abs(dx) == abs(dy):
            return None
        return RELATIONS[(0 if dx > 0 else 1) if abs(dx) > abs(dy) else (2 if dy > 0 else 3)]


def sample(seed: int, n_objects: int | None = None, **fixed: str | tuple[str | None, ...]) -> Scene:
    """A scene by lot. `shape, color, size, style, position` fix object 0, or both by a tuple; also `background_color, texture, finish`.

    Objects differ from each other and from the background in colour, and from each other in shape and place, unless
    fixed otherwise. Held-out shapes, textures, subjects and finishes come only when fixed.
    """
    lot = random.Random(f"toybox scene {seed}")
    n = n_objects or (2 if lot.random() < 0.55 else 1)
    pinned: list[dict[str, str | None]] = [{} for _ in range(n)]
    for name in ("shape", "color", "size", "style", "position"):
        value = fixed.pop(name, None)
        for pins, pin in zip(pinned, (value,) if isinstance(value, str) else value or (), strict=False):
            pins[name] = pin
    ground, texture, finish = (_one(name, fixed.pop(name, None)) for name in ("background_color", "texture", "finish"))
    texture = texture or lot.choice(TEXTURES)
    if fixed:
        raise TypeError(f"unknown attributes: {', '.join(fixed)}")

    taken_colors = [pins["color"] for pins in pinned if pins.get("color")] + [ground]
    free_colors = lot.sample([c for c in COLORS if c not in taken_colors], n + 1)
    free_shapes = lot.sample([s for s in SHAPES if s not in [pins.get("shape") for pins in pinned]], n)
    fixed_part = [
        {
            "shape": pins.get("shape") or free_shapes[i],
            "color": pins.get("color") or free_colors[i],
            "style": pins.get("style") or ("outlined" if lot.random() < 0.3 else "flat"),
        }
        for i, pins in enumerate(pinned)
    ]
    background = Background(ground or free_colors[n], texture)
    for _ in range(1000):
        objects = tuple(
            Obj(size=pins.get("size") or lot.choice(SIZES), position=pins.get("position") or lot.choice(POSITIONS), **part)
            for pins, part in zip(pinned, fixed_part, strict=True)
        )
        scene = Scene(objects, background, seed, finish or "none")
        if _apart(scene):
            break
    return scene  # what was fixed may leave no room: then the second object overlaps the first


def _one(name: str, value: str | tuple[str | None, ...] | None) -> str | None:
    if isinstance(value, tuple):
        raise TypeError(f"{name}: a scene has one, {value} given")
    return value


def _apart(scene: Scene) -> bool:
    if len(scene.objects) < 2:
        return True
    jitter = jitter_of(scene.seed)
    (x0, y0, r0), (x1, y1, r1) = (place(o, jitter[f"object{i}"])[:3] for i, o in enumerate(scene.objects))
    return (x0 - x1) ** 2 + (y0 - y1) ** 2 >= (REACH * (r0 + r1) + MARGIN) ** 2


def _known(what: str, name: str, names: tuple[str, ...]) -> None:
    if name not in names:
        near = get_close_matches(str(name), names, n=1)
        raise ValueError(f"unknown {what} {name!r}; " + (f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"))
