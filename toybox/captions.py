"""What is said of a scene: a template grammar in which each word knows what it speaks of."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from toybox.scenes import Obj, Scene

Referent = int | Literal["background"] | None
Part = tuple[str, Referent]

MAX_WORDS = 30  # with start and end they fill the text encoder's 32 places

SYNONYMS: dict[str, tuple[str, ...]] = {
    "red": ("scarlet", "crimson"), "orange": ("amber",), "yellow": ("golden",), "green": ("emerald",), "blue": ("azure",),
    "purple": ("violet",), "pink": ("rose",), "white": ("ivory",), "black": ("dark",),
    "circle": ("disc", "ball"), "square": ("box",), "ring": ("donut",), "diamond": ("rhombus",), "cross": ("plus",),
    "small": ("tiny", "little"), "large": ("big", "huge"),
    "striped": ("stripy",), "checkered": ("checked",), "dotted": ("spotted",),
}  # fmt: skip
PRAISE = ("nice", "beautiful", "simple", "clean", "bright", "lovely")
MEDIA = ("photo", "picture", "image", "drawing", "painting")
SUBJECT_NOUNS = {"split_square": "square", "bead_ring": "ring"}
RELATED: dict[str, tuple[str, ...]] = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
CONVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


@dataclass(frozen=True, slots=True)
class Caption:
    """A text and, for each of its words, where it stands (start, end) and what it speaks of."""

    text: str
    words: tuple[tuple[int, int, Referent], ...]


def caption(scene: Scene, seed: int | None = None, form: Literal["placed", "related", "listed"] | None = None) -> Caption:
    """The full caption of a scene or, with a seed, one of the many looser ones that training uses.

    A form says how two objects are put together: each with its place, by their relation, or merely listed.
    """
    if seed is None:
        return _compose(_canonical(scene, form or "placed"))
    lot = random.Random(f"toybox caption {seed}")
    for _ in range(20):
        parts = list(_loose(scene, lot, form))
        if len(parts) <= MAX_WORDS:
            break
    return _compose(parts[:MAX_WORDS])


def _compose(parts: list[Part]) -> Caption:
    """Join words; an article becomes "an" where the next word asks for it."""
    texts = ["an" if text == "a" and i + 1 < len(parts) and parts[i + 1][0][0] in "aeio" else text for i, (text, _) in enumerate(parts)]
    words, at = [], 0
    for text, (_, referent) in zip(texts, parts, strict=True):
        words.append((at, at + len(text), referent))
        at += len(text) + 1
    return Caption(" ".join(texts), tuple(words))


def _say(text: str, referent: Referent = None) -> list[Part]:
    return [(word, referent) for word in text.split()]


def _canonical(scene: Scene, form: str) -> list[Part]:
    relation = scene.relation if form == "related" else None
    parts: list[Part] = []
    for i, obj in enumerate(scene.objects):
        parts += _say((relation or "and") if i else "") + _say("a")
        parts += _say("" if obj.size == "medium" else obj.size, i) + _say("outlined" if obj.style == "outlined" else "", i)
        parts += _say(_color_and_noun(obj), i)
        if not relation and form != "listed":
            parts += _place(obj, i, None)
    return parts + _say("on a") + _say(f"{scene.background.color} {scene.background.texture} background", "background")


def _color_and_noun(obj: Obj) -> str:
    noun = SUBJECT_NOUNS.get(obj.shape)
    return noun or f"{obj.color} {obj.shape}"


def _place(obj: Obj, i: int, lot: random.Random | None) -> list[Part]:
    """'on the left', 'in the top left corner', ...: only the words that name the place speak of the object."""
    p = obj.position
    if p == "center":
        return _say("in the") + _say(lot.choice(("center", "middle")) if lot else p, i)
    if p in ("left", "right"):
        return _say("on the") + _say(p, i) + _say("side" if lot and lot.random() < 0.3 else "", i)
    if p in ("top", "bottom"):
        return _say("at the") + _say(p, i)
    if lot and lot.random() < 0.4:
        return _say("in the") + _say(f"{p} corner", i)
    return _say("at the") + _say(p, i)


def _loose(scene: Scene, lot: random.Random, form: str | None) -> Iterator[Part]:
    def word(name: str) -> str:
        return lot.choice(SYNONYMS[name]) if name in SYNONYMS and lot.random() < 0.07 else name

    def thing(i: int) -> list[Part]:
        obj = scene.objects[i]
        parts = _say("a" if lot.random() < 0.93 else "the")
        parts += _say(lot.choice(PRAISE) if lot.random() < 0.05 else "")
        size = "" if obj.size == "medium" or lot.random() < 0.2 else word(obj.size)
        style = ("outlined" if lot.random() < 0.85 else "") if obj.style == "outlined" else ("flat" if lot.random() < 0.25 else "")
        color = "" if lot.random() < 0.06 else word(obj.color)
        noun = lot.choice(("shape", "object")) if lot.random() < 0.03 else word(obj.shape)
        return parts + _say(f"{size} {style} {color} {noun}", i)

    order = [0] if len(scene.objects) == 1 else lot.sample([0, 1], 2)
    if not form:
        form = lot.choices(("placed", "related", "listed"), (0.4, 0.5, 0.1))[0]
    if scene.relation is None and form == "related":
        form = "placed"
    if len(order) == 1:
        form = "placed" if lot.random() < 0.85 else "listed"

    things: list[Part] = []
    for n, i in enumerate(order):
        if n and form == "related" and scene.relation is not None:
            relation = scene.relation if order == [0, 1] else CONVERSE[scene.relation]
            things += _say(lot.choice(RELATED[relation]))
        elif n:
            things += _say(lot.choices(("and", "next to"), (0.9, 0.1))[0])
        things += thing(i)
        if form == "placed":
            things += _place(scene.objects[i], i, lot)

    color, texture = word(scene.background.color), word(scene.background.texture)
    if lot.random() < (0.35 if texture == "plain" else 0.08):
        texture = ""
    if lot.random() < 0.06:
        color = ""
    ground = f"{color} {texture} background" if lot.random() < 0.75 else f"{texture} {color} background"
    medium = _say(f"a {lot.choice(MEDIA)} of") if lot.random() < 0.25 else []
    shape = lot.random()
    if shape < 0.10:
        yield from [*medium, *_say("a"), *_say(ground, "background"), *_say("with"), *things]
    elif shape < 0.94:
        before = lot.choices(("on a", "against a", "over a", "with a"), (0.7, 0.1, 0.1, 0.1))[0]
        yield from [*medium, *things, *_say(before), *_say(ground, "background")]
    else:
        yield from [*medium, *things]
