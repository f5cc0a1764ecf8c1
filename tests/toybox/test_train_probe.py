"""What the probe learns from, and that its training repeats."""

from pathlib import Path

import torch
from torch import Tensor

from toybox import vae
from toybox.probe import CELLS, OBJECT_LABELS, Probe
from toybox.reading import ATTRIBUTES, OF_OBJECT, Guess, ObjectReading, Reading
from toybox.run import Run
from toybox.scenes import Scene, render, sample
from toybox.train_probe import IGNORED, Example, accuracy, augment, mixed_scenes, round_trip, train

EXAMPLES = [Example.by_lot(seed) for seed in range(300)]


def test_targets_say_what_the_scene_holds() -> None:
    for example in EXAMPLES:
        targets = example.targets()
        objects = () if example.empty else example.scene.objects + (example.third.objects if example.third else ())
        assert targets["presence"].sum() == len(objects)
        for obj in objects:
            cell = CELLS.index(obj.position)
            assert targets["presence"][cell] == 1
            assert OBJECT_LABELS["shape"][targets["shape"][cell]] == obj.shape
        assert (targets["size"] == IGNORED).tolist() == (targets["presence"] == 0).tolist()


def test_every_label_is_learned_from() -> None:
    targets = [example.targets() for example in EXAMPLES]
    for name, labels in OBJECT_LABELS.items():
        found = torch.cat([t[name] for t in targets]).unique().tolist()
        assert sorted(set(found) - {IGNORED}) == list(range(len(labels))), name
    assert {int(t["presence"].sum()) for t in targets} == {0, 1, 2, 3}


def test_an_empty_picture_is_the_background_and_a_third_object_is_added() -> None:
    empty = next(e for e in EXAMPLES if e.empty)
    image, masks = render([empty.scene])
    outside = masks[0].sum(0) == 0
    assert torch.equal(empty.picture()[outside], image[0][outside])
    assert not torch.equal(empty.picture(), image[0])
    third = next(e for e in EXAMPLES if e.third)
    image, masks = render([third.scene])
    _, added = render([third.third])
    assert torch.equal(third.picture()[added[0, 0] == 0], image[0][added[0, 0] == 0])
    assert (masks[0].sum(0) * added[0, 0]).max() == 0


def test_accidents_repeat_by_generator_and_stay_pictures() -> None:
    pictures = render([sample(seed) for seed in range(6)])[0]
    a, b, c = (augment(pictures, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert a.shape == pictures.shape
    assert a.min() >= 0
    assert a.max() <= 1
    assert ((a - pictures).abs().mean((1, 2, 3)) < 0.2).all()


def test_a_run_resumes_bit_equal_and_learns_through_the_autoencoder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    folder = tmp_path / "vae"
    vae.build(vae.MINIATURE).save_pretrained(folder)

    def run(name: str, until: int) -> Probe:
        return train(Run(tmp_path / name, "probe", 0, steps=4), "cpu", folder, 48, until=until)

    run("cut", 1)
    cut, whole = run("cut", 3), run("whole", 3)
    assert all(torch.equal(a, b) for a, b in zip(cut.net.parameters(), whole.net.parameters(), strict=True))


def test_round_trips_blur_by_the_latents_noise(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vae.build(vae.MINIATURE).save_pretrained(tmp_path)
    pictures = render([sample(seed) for seed in range(2)])[0]
    exact, noisy = round_trip(tmp_path)(pictures), round_trip(tmp_path, 1.0)(pictures)
    assert exact.shape == pictures.shape
    assert exact.min() >= 0
    assert exact.max() <= 1
    assert torch.equal(exact, round_trip(tmp_path)(pictures))
    assert not torch.equal(exact, noisy)


def test_accuracy_counts_pictures_in_which_every_object_is_right() -> None:
    scenes = mixed_scenes(50, 6)
    assert [scene.objects[0].shape for scene in scenes[::3]] == ["crescent", "arrow"]

    class MistakesOneColor(Probe):
        def __init__(self) -> None: ...

        def read(self, images: Tensor) -> list[Reading]:
            wrong = scenes[1].replace(0, color="red" if scenes[1].objects[0].color != "red" else "blue")
            return [perfect(scene) for scene in (scenes[0], wrong, *scenes[2:])]

    rates = accuracy(MistakesOneColor(), 6, first=50)
    assert rates == dict.fromkeys(ATTRIBUTES, 1.0) | {"color": 5 / 6}


def perfect(scene: Scene) -> Reading:
    objects = [ObjectReading(**{name: Guess(getattr(o, name), 1.0) for name in OF_OBJECT}) for o in scene.objects]
    whole = (str(len(objects)), scene.background.color, scene.background.texture, scene.finish)
    return Reading(tuple(objects), *(Guess(label, 1.0) for label in whole))
