"""How a reading is held against a scene."""

import dataclasses
import json

import pytest

from toybox.reading import ATTRIBUTES, Guess, ObjectReading, Reading
from toybox.scenes import Background, Obj, Scene

SCENE = Scene((Obj("star", "red", "large", "outlined", "left"), Obj("ring", "blue", position="right")), Background("white", "dotted"))


def seen(obj: Obj) -> ObjectReading:
    return ObjectReading(**{name: Guess(getattr(obj, name), 0.9) for name in ("shape", "color", "size", "style", "position")})


def reading(scene: Scene, *objects: Obj) -> Reading:
    ground = scene.background
    found = tuple(seen(obj) for obj in objects or scene.objects)
    whole = (str(len(found)), ground.color, ground.texture, scene.finish)
    return Reading(found, *(Guess(label, 0.9) for label in whole))


def test_a_perfect_reading_matches_in_either_order() -> None:
    first, second = SCENE.objects
    for order in ((first, second), (second, first)):
        found = reading(SCENE, *order)
        assert found.matches(SCENE)
        assert found.assign(SCENE) == (seen(first), seen(second))
        assert found.relation(SCENE) == "left of" == SCENE.relation


@pytest.mark.parametrize("name", ["shape", "color", "size", "style", "position"])
def test_one_wrong_attribute_is_the_one_that_disagrees(name: str) -> None:
    wrong = {"shape": "heart", "color": "green", "size": "small", "style": "flat", "position": "top"}
    agreement = reading(SCENE, dataclasses.replace(SCENE.objects[0], **{name: wrong[name]}), SCENE.objects[1]).agreement(SCENE)
    assert [attribute for attribute in ATTRIBUTES if not agreement[attribute]] == [name]


def test_objects_that_swapped_their_colours_do_not_match() -> None:
    a, b = SCENE.objects
    swapped = reading(SCENE, dataclasses.replace(a, color=b.color), dataclasses.replace(b, color=a.color))
    assert not swapped.matches(SCENE, ("color",))
    assert swapped.matches(SCENE, ("shape", "position", "count"))


def test_a_missing_or_an_additional_object_shows_in_the_count() -> None:
    missing = reading(SCENE, SCENE.objects[1])
    assert missing.assign(SCENE) == (None, seen(SCENE.objects[1]))
    assert missing.relation(SCENE) is None
    assert not missing.matches(SCENE, ("shape",))
    more = reading(SCENE, Obj("heart", "pink"), *SCENE.objects)
    assert [name for name, agrees in more.agreement(SCENE).items() if not agrees] == ["count"]


def test_relations_go_by_the_cells() -> None:
    places = {
        "left of": ("left", "right"),
        "right of": ("right", "bottom left"),
        "above": ("top", "bottom left"),
        "below": ("bottom", "top"),
    }
    for relation, (p, q) in places.items():
        moved = (dataclasses.replace(SCENE.objects[0], position=p), dataclasses.replace(SCENE.objects[1], position=q))
        scene = dataclasses.replace(SCENE, objects=moved)
        assert reading(scene).relation(scene) == scene.relation == relation
    diagonal = (dataclasses.replace(SCENE.objects[0], position="top"), dataclasses.replace(SCENE.objects[1], position="left"))
    assert reading(SCENE, *diagonal).relation(SCENE) is None


def test_a_subject_brings_its_own_colour_and_style() -> None:
    scene = SCENE.replace(0, shape="split_square", color="green")
    found = reading(scene, dataclasses.replace(scene.objects[0], color="pink", style="flat"), scene.objects[1])
    assert found.matches(scene)
    assert [o.subject for o in found.objects] == ["split_square", None]


def test_an_unknown_attribute_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown attribute 'colour'; known: shape, color"):
        reading(SCENE).matches(SCENE, ("colour",))


def test_it_is_plain_json() -> None:
    plain = json.loads(json.dumps(reading(SCENE).as_dict()))
    assert plain["objects"][0]["shape"] == {"label": "star", "probability": 0.9}
