"""Laws of the sampler on networks that have learned nothing."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from toybox import generator, tokenizer, vae
from toybox.ddim import NOWHERE, Diffuser, noise
from toybox.export import export


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Diffuser:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("miniature")
    export(generator.Generator(generator.MINIATURE, tokenizer.build()), vae.build(vae.MINIATURE), folder)
    return Diffuser.load(folder)


TEXTS = ["a red star on a blue background", "a ring", "a green square at the top"]


def test_a_seed_is_the_same_picture_in_any_batch(model: Diffuser) -> None:
    together = model.sample(TEXTS, [5, 6, 7], steps=3)
    alone = torch.cat([model.sample([text], [seed], steps=3) for text, seed in zip(TEXTS, (5, 6, 7), strict=True)])
    assert together.shape == (3, 128, 128, 3)
    assert together.min() >= 0
    assert together.max() <= 1
    assert torch.allclose(together, alone, atol=1e-4)
    assert not torch.allclose(together, model.sample(TEXTS, [6, 7, 8], steps=3), atol=1e-3)


def test_levels_keep_unit_variance_and_end_at_the_cleanest(model: Diffuser) -> None:
    ts = model.timesteps(50)
    assert len(ts) == 51
    assert ts[-1] == NOWHERE
    assert ts[0] > ts[1] > ts[49] > 0
    for t in ts:
        alpha, sigma = model.level(t)
        assert alpha**2 + sigma**2 == pytest.approx(1)
    assert model.level(ts[0])[0] < 0.1
    assert model.level(NOWHERE)[0] > 0.999


def test_guidance_is_a_line_through_both_predictions(model: Diffuser) -> None:
    x, text, empty = noise([1, 2, 3], 16), model.text(TEXTS), model.text([""])
    with torch.no_grad():
        (toward, _), (away, _) = model.predict(x, 500, text), model.predict(x, 500, empty.expand_as(text))
        for guidance in (0.0, 1.0, 3.0):
            eps, x0 = model.guided(x, 500, text, empty, guidance)
            assert torch.allclose(eps, away + guidance * (toward - away), atol=1e-4)
            alpha, sigma = model.level(500)
            assert torch.allclose(alpha * x0 + sigma * eps, x, atol=1e-3)


def test_velocity_says_the_same_as_noise_and_picture(model: Diffuser, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network of v = alpha eps - sigma x0 gives back the eps and the x0 that it was made of (Salimans & Ho 2022)."""
    monkeypatch.setattr(model.scheduler.config, "prediction_type", "v_prediction", raising=False)
    monkeypatch.setitem(model.scheduler._internal_dict, "prediction_type", "v_prediction")
    eps, x0 = noise([1], 16), noise([2], 16)
    alpha, sigma = model.level(300)

    class Velocity:
        def __call__(self, *_: object, **__: object) -> object:
            return type("Out", (), {"sample": alpha * eps - sigma * x0})

    diffuser = Diffuser(model.tokenizer, model.text_encoder, model.vae, Velocity(), model.scheduler)
    found_eps, found_x0 = diffuser.predict(alpha * x0 + sigma * eps, 300, model.text(["a ring"]))
    assert torch.allclose(found_eps, eps, atol=1e-5)
    assert torch.allclose(found_x0, x0, atol=1e-5)


def test_inversion_comes_back_the_better_the_finer_and_the_more_often_it_asks(model: Diffuser) -> None:
    """On the exact network for data that are normal with deviation 0.5, whose way from noise to data is smooth."""

    class Exact:
        def __call__(self, x: Tensor, t: int, **_: object) -> object:
            alpha, sigma = model.level(t)
            return type("Out", (), {"sample": sigma * x / (alpha**2 * 0.25 + sigma**2)})

    exact = Diffuser(model.tokenizer, model.text_encoder, model.vae, Exact(), model.scheduler)
    z, text = 0.5 * noise([1, 2], 16), model.text(TEXTS[:2])

    def error(steps: int, iterations: int) -> float:
        return (exact.denoise(exact.invert(z, text, steps, iterations), text, steps) - z).abs().max().item()

    assert error(10, 0) > 2 * error(10, 1) > 4 * error(10, 2)
    assert error(10, 12) < 1e-3 < error(10, 0)
    assert error(10, 0) > 4 * error(50, 0)


def test_watching_attention_changes_nothing_and_leaves_nothing(model: Diffuser) -> None:
    x, text = noise([1, 2], 16), model.text(TEXTS[:2])
    processors = dict(model.unet.attn_processors)
    with torch.no_grad():
        before = model.predict(x, 300, text)[0]
        maps = model.looked_at(x, 300, text)
        assert torch.equal(model.predict(x, 300, text)[0], before)
    assert model.unet.attn_processors == processors
    assert maps.shape == (2, model.tokenizer.model_max_length, 16, 16)
    assert torch.allclose(maps.sum(1), torch.ones(2, 16, 16), atol=1e-5)
    with pytest.raises(ValueError, match="no cross-attention at 5 x 5"):
        model.looked_at(x, 300, text, side=5)


def test_watched_attention_computes_what_the_network_computes(model: Diffuser) -> None:
    from toybox.ddim import _watched

    x, text = noise([1, 2], 16), model.text(TEXTS[:2])
    with torch.no_grad():
        plain = model.predict(x, 300, text)[0]
        with _watched(model.unet, 64) as seen:
            assert torch.allclose(model.predict(x, 300, text)[0], plain, atol=1e-4)
    assert seen


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="make train-toybox"):
        Diffuser.load(tmp_path)
