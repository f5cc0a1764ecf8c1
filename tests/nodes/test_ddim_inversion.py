"""DDIM inversion: the formula written down anew, what iterations and guidance do, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from diffusion.family import family
from diffusion.guidance import CFG, Conditional
from diffusion.session import open_session
from diffusion.values import Latent
from graph_engine.errors import NodeError
from nodes.ddim_inversion import DDIMInversion
from nodes.trajectory_replay import ReplayTrajectory

STEPS = 4


@pytest.fixture
def latent():
    return Latent(torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def invert(ctx, model, red, latent):
    def run(**inputs):
        return DDIMInversion(**{"model": model, "samples": latent, "positive": red, "steps": STEPS} | inputs).run(ctx)

    return run


@pytest.fixture
def returns(ctx, model, red):
    """How far from its start a trajectory's way back ends."""

    def error(path, positive=red, **inputs):
        back = ReplayTrajectory(model=model, trajectory=path, positive=positive, **inputs).run(ctx).trajectory
        return (back.latents[0] - path.latents[0]).square().mean().item()

    return error


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_each_step_asks_at_the_level_it_goes_to(invert, model, red, blue, latent, device, scale):
    """x_t = √(ᾱ_t/ᾱ_s)·x_s + (√(1−ᾱ_t) − √(ᾱ_t(1−ᾱ_s)/ᾱ_s))·ε(x_s, t)."""
    path = invert(cfg=scale, negative=blue).trajectory
    x = latent.x * family(model.weights.family).latent.scale
    torch.testing.assert_close(path.latents[0], x)
    guidance = Conditional(red) if scale == 1 else CFG(red, blue, scale)
    with open_session(model, guidance, device) as net, torch.no_grad():
        for k in range(STEPS):
            ab_s, ab_t = (1 / (1 + path.sigmas[i].item() ** 2) for i in (k, k + 1))
            eps = net.eps(x, path.sigmas[k + 1].item())
            x = math.sqrt(ab_t / ab_s) * x + (math.sqrt(1 - ab_t) - math.sqrt(ab_t * (1 - ab_s) / ab_s)) * eps
            torch.testing.assert_close(path.latents[k + 1] * math.sqrt(ab_t), x, atol=1e-4, rtol=1e-4)


def test_levels_rise_from_the_clean_picture_to_the_noise(invert, model, latent):
    out = invert()
    path, form = out.trajectory, family(model.weights.family).latent
    assert path.sigmas[0] == 0
    assert bool((path.sigmas.diff() > 0).all())
    assert torch.equal(path.latents[0], latent.x * form.scale)
    assert torch.equal(out.latent.x, path.latents[-1] / form.scale)
    assert (path.format, out.latent.format) == (form.name, form.name)


def test_the_way_back_is_the_truer_the_finer_the_way_and_with_every_iteration(invert, returns):
    plain = returns(invert().trajectory)
    assert returns(invert(steps=12).trajectory) < plain
    assert returns(invert(iterations=1).trajectory) < plain
    assert returns(invert(steps=12, iterations=3).trajectory) < 0.5 * returns(invert(steps=12).trajectory)


def test_full_damping_would_keep_the_first_guess(invert):
    states = [invert(**given).trajectory.latents[-1] for given in ({}, {"iterations": 1, "damping": 0.99}, {"iterations": 1})]
    near, far = ((states[0] - other).abs().max() for other in states[1:])
    assert 0 < near < 0.02 * far


def test_guidance_is_made_up_for_by_the_same_guidance_only(invert, returns, blue):
    guided = invert(cfg=3.0, negative=blue, iterations=5).trajectory
    assert returns(guided, negative=blue, cfg=3.0) < returns(guided)


def test_evaluations_are_counted(invert, blue):
    assert invert().trajectory.evaluations == STEPS
    assert invert(iterations=2).trajectory.evaluations == 3 * STEPS
    assert invert(negative=blue).trajectory.evaluations == STEPS  # at 1 the negative has no say
    assert invert(negative=blue, cfg=2.0).trajectory.evaluations == 2 * STEPS


def test_each_picture_is_inverted_by_itself(invert, latent):
    both, second = invert(), invert(samples=Latent(latent.x[1:]))
    torch.testing.assert_close(both.trajectory.latents[:, 1:], second.trajectory.latents, atol=1e-4, rtol=1e-4)


def test_what_cannot_be_is_refused(invert):
    with pytest.raises(NodeError, match=r"negative: a conditioning is wanted for a cfg of 3, none given"):
        invert(cfg=3.0)
    with pytest.raises(ValueError, match="4 channels are wanted by this model, 16 given"):
        invert(samples=Latent(torch.zeros(1, 16, 8, 8)))
    with pytest.raises(ValueError, match=r"a sd latent is wanted|latent is wanted by this model, flux given"):
        invert(samples=Latent(torch.zeros(1, 4, 8, 8), format="flux"))
    for bad in ({"cfg": -1.0}, {"damping": 1.0}, {"iterations": -1}, {"steps": 0}):
        with pytest.raises(ValidationError):
            invert(**bad)
