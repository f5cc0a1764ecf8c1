"""The probe's arithmetic, its file format, and how well the shipped one sees."""

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor

from toybox.probe import CELLS, LABELS, OBJECT_LABELS, PICTURE_LABELS, Probe, ProbeNet
from toybox.reading import ATTRIBUTES
from toybox.scenes import CELL, HELD_OUT_SHAPES, SUBJECTS, Background, Obj, Scene, render, sample
from toybox.train_probe import accuracy, mixed_scenes


@pytest.fixture(scope="module")
def probe() -> Probe:
    return Probe.load()


@pytest.fixture(scope="module")
def blank() -> Probe:
    torch.manual_seed(0)
    return Probe(ProbeNet((8, 8), 16))


@pytest.fixture(scope="module")
def images() -> Tensor:
    return render([sample(seed) for seed in range(8)])[0]


def test_the_shipped_probe_reads_clean_renders(probe: Probe) -> None:
    rates = accuracy(probe, 192)
    assert min(rates.values()) > 0.96, rates


def test_it_knows_what_the_generator_never_saw(probe: Probe) -> None:
    for name in HELD_OUT_SHAPES + SUBJECTS:
        scenes = [sample(11_500_000 + i, 1, shape=name, texture="zigzag") for i in range(24)]
        readings = probe.read(render(scenes)[0])
        assert sum(r.matches(s, ("count", "shape", "texture")) for r, s in zip(readings, scenes, strict=True)) >= 22, name
        if name in SUBJECTS:
            assert sum(any(o.subject == name for o in r.objects) for r in readings) >= 22


def test_it_tells_a_counterfactual_from_the_scene(probe: Probe) -> None:
    scenes = [sample(11_600_000 + i, 2, color=("red", "green"), position=("left", "right"), size=("medium", "small")) for i in range(8)]
    changed = [scene.replace(0, color="white", style="flat") for scene in scenes]
    for reading, before, after in zip(probe.read(render(changed)[0]), scenes, changed, strict=True):
        if after.background.color != "white":
            assert reading.matches(after)
            assert not reading.matches(before)
            assert [name for name in ATTRIBUTES if not reading.agreement(before)[name]] in (["color"], ["color", "style"])


def test_resampled_pictures_read_alike(probe: Probe) -> None:
    scenes = [sample(11_700_000 + i, 1, size="large") for i in range(8)]
    twice = render(scenes)[0].repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert sum(r.matches(s) for r, s in zip(probe.read(twice), scenes, strict=True)) >= 7


def test_features_follow_what_is_shown_not_where(probe: Probe) -> None:
    subject, other = (Obj(shape, "red", "large") for shape in SUBJECTS)
    scenes = [
        Scene((subject,), Background("blue", "plain"), 1),
        Scene((subject,), Background("blue", "plain"), 2).replace(position="top left"),
        Scene((other,), Background("blue", "plain"), 3),
        Scene((other,), Background("yellow", "striped"), 4),
    ]
    f = probe.features(render(scenes)[0])
    assert torch.allclose(f.norm(dim=1), torch.ones(4), atol=1e-5)
    alike = f @ f[0]
    assert alike[1] > alike[2] > alike[3]


def test_places_and_numbers_add_up_as_by_enumeration(blank: Probe, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the sum over all 512 ways in which nine places can be empty or taken."""
    torch.manual_seed(1)
    presence = torch.rand(3, len(CELLS))
    fixed = {name: torch.rand(3, len(CELLS), len(labels)).softmax(-1) for name, labels in OBJECT_LABELS.items()}
    fixed |= {name: torch.rand(3, len(labels)).softmax(-1) for name, labels in PICTURE_LABELS.items()}
    monkeypatch.setattr(blank, "_chances", lambda _: fixed | {"presence": presence})
    count, position, color = torch.zeros(3, 4), torch.zeros(3, 2, len(CELLS)), torch.zeros(3, 2, len(LABELS["color"]))
    for taken in itertools.product((False, True), repeat=len(CELLS)):
        p = torch.where(torch.tensor(taken), presence, 1 - presence).prod(1)
        there = [cell for cell, t in enumerate(taken) if t]
        count[:, min(len(there), 3)] += p
        for k, cell in enumerate(there[:2]):
            position[:, k, cell] += p
            color[:, k] += p[:, None] * fixed["color"][:, cell]
    found = blank.probabilities(images[:3])
    assert set(found) == set(LABELS)
    for name, wanted in (("count", count), ("position", position), ("color", color)):
        assert torch.allclose(found[name], wanted, atol=1e-5), name


def test_objects_are_read_row_by_row(probe: Probe) -> None:
    assert [CELL[a][1] <= CELL[b][1] for a, b in itertools.pairwise(CELLS)] == [True] * 8
    places = ("bottom left", "top right")
    (reading,) = probe.read(render([sample(3, 2, position=places, color=("red", "blue"), background_color="white")])[0])
    assert [(o.position.label, o.color.label) for o in reading.objects] == [("top right", "blue"), ("bottom left", "red")]


def test_a_reading_agrees_with_the_probabilities(probe: Probe) -> None:
    pictures = render(mixed_scenes(11_800_000, 12))[0]
    chances = probe.probabilities(pictures)
    for n, reading in enumerate(probe.read(pictures)):
        assert LABELS["count"][chances["count"][n].argmax()] == reading.count.label
        assert float(chances["texture"][n].max()) == pytest.approx(reading.texture.probability)
        for k, seen in enumerate(reading.objects[:2]):
            for name in (*OBJECT_LABELS, "position"):
                assert LABELS[name][chances[name][n, k].argmax()] == getattr(seen, name).label


def test_a_picture_reads_the_same_in_any_batch(blank: Probe, images: Tensor) -> None:
    together = blank.features(images)
    alone = torch.cat([blank.features(image[None]) for image in images])
    assert torch.allclose(together, alone, atol=1e-5)


def test_saving_and_loading_keeps_the_readings(blank: Probe, images: Tensor, tmp_path: Path) -> None:
    blank.save(tmp_path)
    again = Probe.load(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    for name, p in blank.probabilities(images).items():
        assert torch.allclose(p, again.probabilities(images)[name], atol=2e-2), name  # half precision on disk


def test_bad_input_is_named(blank: Probe, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="train one with"):
        Probe.load(tmp_path)
    with pytest.raises(ValueError, match=r"\[b, h, w, 3\], not \[3, 128, 128\]"):
        blank.read(torch.zeros(3, 128, 128))
    blank.save(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace("crescent", "moon"))
    with pytest.raises(ValueError, match="other labels"):
        Probe.load(tmp_path)


def test_the_shipped_weights_are_small() -> None:
    from toybox import WEIGHTS

    assert sum(p.stat().st_size for p in (WEIGHTS / "probe").iterdir()) <= 2.5e6
