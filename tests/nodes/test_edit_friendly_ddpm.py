"""Edit-friendly DDPM inversion: noise maps that lead back to the picture at their guidance, and edit it at another."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from diffusion.guidance import CFG
from diffusion.pair import stacked
from diffusion.session import open_session
from diffusion.values import Latent
from graph_engine.errors import NodeError
from nodes.edit_friendly_ddpm import EditFriendlyInversion
from nodes.prompt_to_prompt import AlignPrompts, PromptToPrompt
from nodes.trajectory_replay import ReplayTrajectory

STEPS, SCALE = 5, 3.5


@pytest.fixture
def latent():
    return Latent(torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def invert(ctx, model, red, blue, latent):
    def run(**inputs):
        given = {"model": model, "samples": latent, "positive": red, "negative": blue, "steps": STEPS, "cfg": SCALE}
        return EditFriendlyInversion(**given | inputs).run(ctx)

    return run


@pytest.fixture
def replay(ctx, model, red, blue):
    def run(path, **inputs):
        given = {"model": model, "trajectory": path, "positive": red, "negative": blue, "cfg": SCALE}
        return ReplayTrajectory(**given | inputs).run(ctx)

    return run


@pytest.mark.parametrize("eta", [1.0, 0.4])
@pytest.mark.parametrize("start", [1.0, 0.6, 0.2])
def test_pictures_come_back_over_the_stored_states(invert, replay, latent, eta, start):
    path = invert(eta=eta).trajectory
    out = replay(path, start=start)
    torch.testing.assert_close(out.latent.x, latent.x, atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(out.trajectory.latents, path.latents[: round(start * STEPS) + 1], atol=2e-3, rtol=1e-3)


def test_its_states_are_the_picture_with_independent_noise_at_every_level(invert, latent):
    path = invert(samples=Latent(torch.zeros(1, 4, 32, 32)), steps=8).trajectory
    draws = torch.stack([(path.latents[k] / path.sigmas[k]).flatten() for k in range(1, 9)])
    assert draws.std(dim=1).tolist() == pytest.approx([1.0] * 8, abs=0.05)
    off = torch.corrcoef(draws) - torch.eye(8)
    assert off.abs().max() < 0.06


def test_the_step_is_the_posteriors(invert, model, red, blue, device):
    """With η = 1: x_{k−1} = μ + σ·z where the DDPM posterior has this mean and deviation (Ho et al. 2020, eq. 7), of VP states."""
    path, k = invert().trajectory, 3
    ab, ab_next = (1 / (1 + path.sigmas[i].item() ** 2) for i in (k, k - 1))
    with open_session(model, CFG(red, blue, SCALE), device) as net, torch.no_grad():
        x0 = net.denoise(path.latents[k], path.sigmas[k].item())
    alpha, x = ab / ab_next, path.latents[k] * ab**0.5
    mean = (ab_next**0.5 * (1 - alpha) * x0 + alpha**0.5 * (1 - ab_next) * x) / (1 - ab)
    deviation = ((1 - ab_next) / (1 - ab) * (1 - alpha)) ** 0.5
    torch.testing.assert_close(mean + deviation * path.noises[k - 1], path.latents[k - 1] * ab_next**0.5, atol=1e-3, rtol=1e-3)


def test_another_guidance_or_prompt_is_an_edit(invert, replay, blue, latent):
    path = invert().trajectory
    for change in ({"cfg": 7.5}, {"positive": blue}):
        full, late = (replay(path, start=start, **change).latent.x - latent.x for start in (1.0, 0.4))
        assert full.norm() > 1e-1
        assert late.norm() < full.norm()


def test_another_seed_takes_another_way_to_the_same_picture(invert, replay, latent):
    first, second = (invert(seed=seed).trajectory for seed in (0, 1))
    assert not torch.allclose(first.noises, second.noises, atol=1e-2)
    assert torch.equal(first.noises, invert(seed=0).trajectory.noises)
    torch.testing.assert_close(replay(second).latent.x, latent.x, atol=2e-3, rtol=1e-3)


def test_each_picture_is_inverted_by_itself(invert, latent):
    both, second = invert().trajectory, invert(samples=Latent(latent.x[1:])).trajectory
    torch.testing.assert_close(both.noises[:, 1:], second.noises, atol=1e-2, rtol=1e-3)


def test_prompt_to_prompt_replays_the_noises_in_both_rows(invert, replay, ctx, model, red, blue, latent):
    """As published with 12 of 100 steps skipped: the source keeps to its states, the target is guided more than the inversion was."""
    path, both = invert(samples=Latent(latent.x[:1])).trajectory, stacked(red, blue)
    alignment = AlignPrompts(positive=both, mode="replace").run(ctx)
    p2p = PromptToPrompt(model=model, alignment=alignment, cross_replace=0.6, self_replace=0.2, trajectory=path).run(ctx)
    out = replay(path, model=p2p, positive=both, cfg=9.0, start=0.8).trajectory.latents
    assert torch.equal(out[:, 0], path.latents[:5, 0])
    assert (out[0, 1] - out[0, 0]).abs().max() > 1e-2
    same = stacked(red, red)
    alignment = AlignPrompts(positive=same, mode="replace").run(ctx)
    model = PromptToPrompt(model=model, alignment=alignment, trajectory=path).run(ctx)
    rows = replay(path, model=model, positive=same).latent.x
    torch.testing.assert_close(rows[1], rows[0], atol=5e-3, rtol=1e-3)  # the same prompt at the inversion's guidance is the source


def test_what_cannot_be_is_refused(invert):
    with pytest.raises(NodeError, match=r"negative: a conditioning is wanted for a cfg of 3.5, none given"):
        invert(negative=None)
    with pytest.raises(ValueError, match="4 channels are wanted by this model, 16 given"):
        invert(samples=Latent(torch.zeros(1, 16, 8, 8)))
    for bad in ({"eta": 0.0}, {"eta": 1.1}, {"cfg": -1.0}, {"seed": -1}):
        with pytest.raises(ValidationError):
            invert(**bad)
