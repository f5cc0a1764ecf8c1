"""The judge of control judged, by pictures that are known to follow a hint or not, and by a network without effect."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from toybox import control, tokenizer
from toybox.ddim import Diffuser, noise
from toybox.evaluate_control import MEASURES, Steered, measure, words
from toybox.export import scheduler
from toybox.generator import MINIATURE, build_text, build_unet
from toybox.scenes import POSITIONS, render, sample

SCENES = [sample(seed, 1) for seed in range(40)]


@pytest.fixture
def model() -> Diffuser:
    torch.manual_seed(0)
    vocabulary = tokenizer.build()
    unet, text = build_unet(MINIATURE), build_text(MINIATURE, vocabulary)
    return Diffuser(vocabulary, text.eval().requires_grad_(False), None, unet.eval().requires_grad_(False), scheduler())


@pytest.mark.parametrize("kind", control.KINDS)
def test_the_scene_itself_follows_and_another_does_not(kind: str) -> None:
    score = MEASURES[kind][1]
    itself = score(render(SCENES)[0], SCENES)
    assert sum(itself) / len(itself) > 0.9
    others = score(render([*SCENES[1:], SCENES[0]])[0], SCENES)
    assert sum(others) / len(others) < 0.4


def test_captions_do_not_say_where_things_are() -> None:
    places = {word for position in POSITIONS for word in position.split()}
    for scene in SCENES:
        assert scene.objects[0].color in words("edges", scene) or scene.objects[0].shape in words("edges", scene)
        assert not places & set(words("edges", scene).split())
        assert words("colors", scene) == ""


@pytest.mark.parametrize("kind", control.KINDS)
def test_a_steered_model_takes_doubled_batches_and_shows_the_hint(kind: str, model: Diffuser) -> None:
    net = control.build(kind, model.unet)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05)
    hints = MEASURES[kind][0](SCENES[:2])
    steered = replace(model, unet=Steered(control.Control(kind, net, model), hints))
    x, text = noise([1, 2], 16), model.text(["a red star", "a blue heart"])
    with torch.no_grad():
        alone = steered.predict(x, 500, text)[0]
        both = steered.predict(torch.cat((x, x)), 500, torch.cat((text, text)))[0]
        assert torch.allclose(both, torch.cat((alone, alone)), atol=1e-4 * alone.abs().max().item())
        assert not torch.allclose(alone, model.predict(x, 500, text)[0], rtol=0.01)


def test_a_network_without_effect_is_found_out(model: Diffuser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    control.export(control.build("edges", model.unet), tmp_path / "edges")
    monkeypatch.setattr(Diffuser, "pictures", lambda self, latents: latents.repeat(1, 1, 8, 8).permute(0, 2, 3, 1)[..., :3].clamp(0, 1))
    with_hint, without = measure("edges", model, tmp_path / "edges", 2, 2, 0)
    assert with_hint.value == without.value
    assert with_hint.failed
