"""Null-text inversion: its constants, what an optimisation must do, and its identities."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from diffusion.guidance import CFG
from diffusion.pair import stacked
from diffusion.patch import GuidancePatch
from diffusion.process import Process
from diffusion.sample import sample
from diffusion.schedule import Schedule
from diffusion.text import encode
from diffusion.trajectory import distances
from diffusion.values import Conditioning, Guider, Latent, Noise, Sampler, Sigmas
from graph_engine.errors import NodeError
from nodes.ddim_inversion import DDIMInversion
from nodes.null_text import NullTextInversion, good_enough, learning_rate
from nodes.trajectory_replay import ReplayTrajectory

STEPS, CFG_SCALE = 4, 5.0


@pytest.fixture
def empty(clip, device):
    return encode(clip, "", device)


def inverted(ctx, model, red, seed=0, batch=1):
    latent = Latent(torch.randn(batch, 4, 8, 8, generator=torch.Generator().manual_seed(seed)))
    return DDIMInversion(model=model, samples=latent, positive=red, steps=STEPS).run(ctx).trajectory


@pytest.fixture
def path(ctx, model, red):
    return inverted(ctx, model, red)


@pytest.fixture
def tune(ctx, model, path, red, empty):
    def run(**inputs):
        given = {"model": model, "trajectory": path, "positive": red, "negative": empty, "cfg": CFG_SCALE}
        return NullTextInversion(**given | inputs).run(ctx)

    return run


@pytest.fixture
def replay(ctx, model, red, empty):
    def run(path, positive=red, cfg=CFG_SCALE, **inputs):
        given = {"model": model, "trajectory": path, "positive": positive, "negative": empty, "cfg": cfg}
        return ReplayTrajectory(**given | inputs).run(ctx)

    return run


def steps(n):
    return list(Schedule(Process().table(), torch.linspace(10, 0, n + 1)))


def test_its_constants_are_the_authors_at_50_steps_and_hold_for_more():
    assert [learning_rate(0.01, s) for s in steps(50)] == pytest.approx([0.01 * (1 - i / 100) for i in range(50)])
    assert [good_enough(1e-5, 1e-3, s) for s in steps(50)] == pytest.approx([1e-5 + 2e-5 * i for i in range(50)])
    assert all(0.005 < learning_rate(0.01, s) <= 0.01 for s in steps(200))


def test_at_a_guidance_of_1_it_is_ddim_bit_for_bit(tune, replay, path, empty):
    out = tune(cfg=1.0)
    assert out.loss == 0
    assert out.trajectory.evaluations == path.evaluations
    assert torch.equal(out.trajectory.latents, path.latents)
    assert torch.equal(replay(out.trajectory, cfg=1.0).latent.x, replay(path, cfg=1.0).latent.x)
    assert torch.equal(replay(out.trajectory, cfg=3.0).latent.x, replay(path, cfg=3.0).latent.x)  # nothing was tuned


def test_tuning_leads_nearer_to_the_path_than_the_empty_prompt(tune, replay, path):
    plain, tuned = tune(inner_steps=0, tolerance=0.0, slack=0.0), tune(tolerance=0.0, slack=0.0)
    assert tuned.loss < 0.8 * plain.loss
    assert distances(path, replay(tuned.trajectory).trajectory)[0] < distances(path, replay(path).trajectory)[0]
    assert torch.equal(replay(plain.trajectory).latent.x, replay(path).latent.x)


def test_the_loss_is_that_of_the_replay(tune, replay, path):
    out = tune(inner_steps=3)
    again = replay(out.trajectory).trajectory
    assert distances(path, again)[:-1].square().mean().item() == pytest.approx(out.loss, rel=1e-3)


def test_its_embeddings_serve_any_sampler_over_the_same_levels(tune, replay, path, model, red, device):
    out = tune(inner_steps=2)
    guider = Guider(model, CFG(red, out.negative, CFG_SCALE))
    start = Latent(path.latents[-1] / 0.18215)
    plain = sample(guider, Noise(None), Sampler.of("ddim"), Sigmas(path.sigmas.flip(0)), start, device)[0]
    torch.testing.assert_close(plain.x, replay(out.trajectory).latent.x, atol=1e-4, rtol=1e-4)


def test_on_a_path_that_guidance_takes_by_itself_nothing_is_tuned(tune, replay, path, empty):
    out = tune(trajectory=replace(replay(path).trajectory, evaluations=STEPS))
    assert out.loss < 1e-5
    assert torch.equal(out.trajectory.uncond, empty.entries[0].embeds.expand(STEPS, -1, -1, -1))
    assert out.trajectory.evaluations == STEPS + 2 * STEPS


def test_each_step_starts_from_the_embedding_before(tune, empty):
    """Without a step of its own a later one has the embedding of the first; with one, another."""
    uncond = tune(inner_steps=2, tolerance=0.0, slack=0.0).trajectory.uncond
    start = empty.entries[0].embeds
    moved = [(uncond[k] - start).norm().item() for k in range(STEPS)]
    assert moved[-1] > moved[0] > 0
    assert all((uncond[k + 1] - uncond[k]).abs().max() <= 2.5 * 0.01 for k in range(STEPS - 1))  # Adam moves by its rate at most


def test_each_picture_is_tuned_by_itself(ctx, model, red, tune):
    both = inverted(ctx, model, red, seed=7, batch=2)
    one = replace(both, latents=both.latents[:, 1:])
    tuned = [tune(trajectory=p, inner_steps=2).trajectory.uncond for p in (both, one)]
    torch.testing.assert_close(tuned[0][:, 1:], tuned[1], atol=2e-3, rtol=1e-3)


def test_no_gradient_is_left(tune):
    with torch.no_grad():
        out = tune(inner_steps=1)
        assert not torch.is_grad_enabled()
    assert not out.trajectory.uncond.requires_grad
    assert not out.negative.entries[0].per_step.requires_grad


class Other(GuidancePatch):
    pass


def test_what_cannot_be_is_refused(tune, model, red, blue, path, empty):
    with pytest.raises(NodeError, match="one with plain guidance is wanted, as that is what is made up for; Other given"):
        tune(model=model.patched(Other()))
    with pytest.raises(ValueError, match="negative: one entry is wanted, 2 given"):
        tune(negative=Conditioning((*red, *blue)))
    with pytest.raises(NodeError, match=r"one prompt or 1 as the trajectory has pictures are wanted, \(1, 2\) given"):
        tune(positive=stacked(red, blue))
    with pytest.raises(ValueError, match="4 channels are wanted by this model, 3 given"):
        tune(trajectory=replace(path, latents=path.latents[:, :, :3]))
    with pytest.raises(NodeError, match=r"trajectory: one from DDIM Inversion is wanted, .*; one with noises given"):
        tune(trajectory=replace(path, noises=path.latents[1:]))
    with pytest.raises(NodeError, match="a coupled pair given"):
        tune(trajectory=replace(path, coupled=path.latents))
    for bad in ({"cfg": -1.0}, {"inner_steps": -1}, {"learning_rate": -0.1}):
        with pytest.raises(ValidationError):
            tune(**bad)
