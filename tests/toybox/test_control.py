"""The control networks in miniature: what they are shown, that they start without effect, resume exactly and ship as folders."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from toybox import control, hints, tokenizer, train_control
from toybox.ddim import Diffuser
from toybox.export import scheduler
from toybox.generator import MINIATURE, Eager, alpha_bars, build_text, build_unet
from toybox.run import Run
from toybox.scenes import render, sample
from toybox.views import coarse_colors, edges


@pytest.fixture(scope="module")
def shown() -> dict[str, Tensor]:
    return hints.of_scenes(0, 8)


@pytest.fixture(scope="module")
def data() -> dict[str, Tensor]:
    return {"latents": torch.randn(8, 4, 16, 16, generator=torch.Generator().manual_seed(0))}


@pytest.fixture
def model() -> Diffuser:
    torch.manual_seed(0)
    words = tokenizer.build()
    unet, text = build_unet(MINIATURE), build_text(MINIATURE, words)
    return Diffuser(words, text.eval().requires_grad_(False), None, unet.eval().requires_grad_(False), scheduler())


def test_hints_are_the_scenes_edges_and_colours(shown: dict[str, Tensor]) -> None:
    images, _ = render([sample(seed) for seed in range(8)])
    assert torch.equal(hints.edges_of(shown["edges"][:, 0]), edges(images).permute(0, 3, 1, 2))
    colors = hints.colors_of(shown["colors"])
    assert (colors[:, :, 4::16, 4::16].permute(0, 2, 3, 1) - coarse_colors(images)).abs().max() < 0.003


def test_thin_edges_lie_on_the_edges_and_outlines_around_the_objects(shown: dict[str, Tensor]) -> None:
    whole, thin, outline = (hints.edges_of(shown["edges"][:, k])[:, 0] for k in range(3))
    assert (thin * (1 - whole)).sum() < 0.02 * thin.sum()  # they take the steepest of the three colours along each axis
    assert 0 < thin.sum() < 0.7 * whole.sum()
    _, masks = render([sample(seed) for seed in range(8)])
    near = torch.nn.functional.max_pool2d(masks.amax(1), 7, 1, 3)
    assert (outline <= (near > 0.05)).all()
    assert (outline.sum((1, 2)) > 20).all()


def test_hints_are_cached(tmp_path: Path) -> None:
    made = hints.cached(tmp_path / "hints.safetensors", 2)
    assert all(torch.equal(made[k], v) for k, v in hints.cached(tmp_path / "hints.safetensors", 2).items())
    assert len(hints.cached(tmp_path / "hints.safetensors", 3)["edges"]) == 3


def test_a_new_controlnet_changes_nothing(model: Diffuser, data: dict[str, Tensor], shown: dict[str, Tensor]) -> None:
    side = control.Control("edges", control.build("edges", model.unet), model)
    b = control.batch("edges", data, shown, model.tokenizer, 0, 4)
    words = model.text([""] * 4)
    with torch.no_grad():
        plain = model.unet(b.latents, b.t, words).sample
        steered = model.unet(b.latents, b.t, words, **side.residuals(b.latents, b.t, words, b.hints)).sample
    assert torch.equal(plain, steered)


def test_the_hint_encoder_learns_where_objects_are(model: Diffuser, shown: dict[str, Tensor]) -> None:
    covered = hints.coverage(len(shown["edges"]))
    encoder = control.build("edges", model.unet).get_submodule("controlnet_cond_embedding")
    first, later = (control.read_edges(encoder, shown, covered, 0.7, steps, 8) for steps in (1, 60))
    assert later < 0.7 * first
    features = encoder(hints.edges_of(shown["edges"][:64, 0]))
    assert features.std().item() == pytest.approx(0.7, rel=1e-3)


def test_colours_are_learnt_from_noise_alone_where_sampling_starts(
    model: Diffuser, data: dict[str, Tensor], shown: dict[str, Tensor]
) -> None:
    bright = {"latents": data["latents"] * 0.01 + 3}  # a mean that every noisy version of them shows
    bare: dict[bool, list[bool]] = {True: [], False: []}
    for step in range(40):
        b = control.batch("colors", bright, shown, model.tokenizer, step, 8)
        a = alpha_bars()[b.t][:, None, None, None]
        x_t = a.sqrt() * b.latents + (1 - a).sqrt() * b.noise
        seen = x_t.mean((1, 2, 3)) / (3 * a.sqrt().flatten())  # 1 where that mean shows
        for early, share in zip((b.t >= control.FIRST_STEPS).tolist(), seen.tolist(), strict=True):
            bare[early].append(share < 0.5)
    assert not any(bare[False])
    assert sum(bare[True]) / len(bare[True]) == pytest.approx(control.BARE_SHARE, abs=0.15)


def test_any_noise_is_explained(data: dict[str, Tensor]) -> None:
    t = torch.arange(100, 900, 100)
    x_t = torch.randn(8, 4, 16, 16, generator=torch.Generator().manual_seed(5))
    a = alpha_bars()[t][:, None, None, None]
    assert torch.allclose(a.sqrt() * data["latents"] + (1 - a).sqrt() * control.explained(x_t, data["latents"], t), x_t, atol=1e-5)


@pytest.mark.parametrize("kind", control.KINDS)
def test_training_changes_the_network_alone_resumes_bit_equal_and_ships(
    kind: str, data: dict[str, Tensor], shown: dict[str, Tensor], model: Diffuser, tmp_path: Path
) -> None:
    before = {k: v.clone() for k, v in model.unet.state_dict().items()}

    def train(folder: str, until: int) -> torch.nn.Module:
        run = Run(tmp_path / folder, kind, 1, 4)
        return train_control.train(run, kind, model, data, shown, batch_size=4, until=until, warm_up=2)

    train("cut", 2)
    cut, whole = train("cut", 4), train("whole", 4)
    assert all(torch.equal(v, whole.state_dict()[k]) for k, v in cut.state_dict().items())
    assert all(torch.equal(v, before[k]) for k, v in model.unet.state_dict().items())
    kept = {k: v.half().float() for k, v in whole.state_dict().items()}
    control.export(whole, tmp_path / "shipped")
    again = control.load(kind, tmp_path / "shipped").state_dict()
    assert kept.keys() == again.keys()
    assert all(torch.equal(v, again[k]) for k, v in kept.items())


def test_training_goes_on_from_a_shipped_network(
    data: dict[str, Tensor], shown: dict[str, Tensor], model: Diffuser, tmp_path: Path
) -> None:
    net = control.build("colors", model.unet)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.01)
    control.export(net, tmp_path / "shipped")
    run = Run(tmp_path, "on", 1, 4)
    same = train_control.train(run, "colors", model, data, shown, batch_size=4, until=0, start=tmp_path / "shipped").state_dict()
    assert all(torch.equal(v.float(), same[k]) for k, v in net.state_dict().items())
    trained = train_control.train(run, "colors", model, data, shown, batch_size=4, until=2, start=tmp_path / "shipped").state_dict()
    assert not any(torch.equal(v, same[k]) for k, v in trained.items())


def test_a_missing_network_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="make train-toybox-control"):
        control.load("edges", tmp_path)
    with pytest.raises(ValueError, match="edges or colors"):
        control.build("depth", build_unet(MINIATURE))


def test_attention_is_plain(model: Diffuser) -> None:
    net = control.build("edges", model.unet)
    assert all(isinstance(p, Eager) for p in net.attn_processors.values())
