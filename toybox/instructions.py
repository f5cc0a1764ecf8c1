"""Edits in words: a scene, the same scene with one thing changed, and an instruction that asks for it (Brooks et al. 2023)."""

from __future__ import annotations

import random
from dataclasses import dataclass

from toybox.scenes import COLORS, SHAPES, STYLES, TEXTURES, Scene, sample

SHARES = {"color": 0.28, "shape": 0.24, "background_color": 0.26, "texture": 0.08, "style": 0.07, "size": 0.07}


@dataclass(frozen=True, slots=True)
class Edit:
    """What is to be changed, and by which words."""

    before: Scene
    after: Scene
    attribute: str
    object: int  # whose attribute it is; 0 where it is the background's
    text: str


def edit(seed: int, attribute: str | None = None, n_objects: int | None = None) -> Edit:
    """The edit of this seed: of an attribute by lot, unless it is given. ValueError for an unknown one."""
    if attribute is not None and attribute not in SHARES:
        raise ValueError(f"attribute: one of {', '.join(SHARES)} is wanted, {attribute!r} given")
    lot = random.Random(f"toybox instruction {seed}")
    before = sample(seed, n_objects)
    name = lot.choices(list(SHARES), list(SHARES.values()))[0]
    name = attribute or name
    if name in ("background_color", "texture"):
        return _of_background(before, name, lot)
    return _of_object(before, name, lot.randrange(len(before.objects)), lot)


def _of_background(before: Scene, name: str, lot: random.Random) -> Edit:
    if name == "texture":
        new = lot.choice([texture for texture in TEXTURES if texture != before.background.texture])
        text = lot.choice((f"make the background {new}", f"change the background to {new}"))
    else:
        new = lot.choice(_free_colors(before))
        text = lot.choice((f"make the background {new}", f"change the background to {new}", f"color the background {new}"))
    return Edit(before, before.replace(0, **{name: new}), name, 0, text)


def _of_object(before: Scene, name: str, i: int, lot: random.Random) -> Edit:
    old = before.objects[i]
    it = f"the {old.color} {old.shape}" if lot.random() < 0.4 else f"the {old.shape}"
    if name == "color":
        new = lot.choice(_free_colors(before))
        text = lot.choice((f"make {it} {new}", f"turn {it} {new}", f"change {it} to {new}", f"color {it} {new}"))
    elif name == "shape":
        new = lot.choice([shape for shape in SHAPES if shape not in [each.shape for each in before.objects]])
        text = lot.choice((f"turn {it} into a {new}", f"replace {it} with a {new}", f"make {it} a {new}"))
    elif name == "style":
        new = STYLES[1 - STYLES.index(old.style)]
        text = f"make {it} {new}"
    else:
        new = {"small": "large", "large": "small"}.get(old.size) or lot.choice(("small", "large"))
        text = lot.choice((f"make {it} {new}", f"make {it} {'larger' if new == 'large' else 'smaller'}"))
    text = text.replace(" a arrow", " an arrow")
    return Edit(before, before.replace(i, **{name: new}), name, i, text)


def _free_colors(scene: Scene) -> list[str]:
    taken = {scene.background.color, *(each.color for each in scene.objects)}
    return [color for color in COLORS if color not in taken]
