"""Direct inversion: the source is on its path bit for bit, the target as if nothing had been done."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from diffusion.guidance import CFG
from diffusion.pair import stacked
from diffusion.sample import sample
from diffusion.values import Guider, Latent, Noise, Sampler, Trajectory
from nodes.ddim_inversion import DDIMInversion
from nodes.direct_inversion import DirectInversion
from nodes.prompt_to_prompt import AlignPrompts, PromptToPrompt
from nodes.source_and_target import SourceAndTarget
from nodes.trajectory_replay import ReplayTrajectory

STEPS, SCALE = 4, 7.5


@pytest.fixture
def path(ctx, model, red):
    latent = Latent(torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)))
    return DDIMInversion(model=model, samples=latent, positive=red, steps=STEPS).run(ctx).trajectory


@pytest.fixture
def direct(ctx, model, path):
    def run(**inputs):
        return DirectInversion(**{"model": model, "trajectory": path} | inputs).run(ctx)

    return run


@pytest.fixture
def states(ctx, path, red, blue):
    """The rows' way down under guidance."""

    def run(model, start=1.0):
        replay = ReplayTrajectory(model=model, trajectory=path, positive=stacked(red, blue), negative=blue, cfg=SCALE, start=start)
        return replay.run(ctx).trajectory.latents

    return run


@pytest.mark.parametrize("start", [1.0, 0.5])
def test_the_source_is_on_its_path_at_every_level_and_the_target_does_not_know(states, direct, model, path, start):
    held, free = states(direct(start=start).model, start), states(model, start)
    assert torch.equal(held[:, 0], path.latents[: len(held), 0])
    assert not torch.allclose(free[0, 0], path.latents[0, 0], atol=1e-2)
    assert torch.equal(held[:, 1], free[:, 1])


def test_that_is_what_adding_the_offsets_does(states, direct, ctx, model, path, red, blue):
    """o_k = x*_{k−1} − step(x*_k), added to the source after its step: the same, but for rounding (Ju et al. 2024, alg. 1)."""
    held = states(direct().model)
    for k in range(STEPS, 0, -1):
        piece = Trajectory(held[[k - 1, k]], path.sigmas[[k - 1, k]])
        step = ReplayTrajectory(model=model, trajectory=piece, positive=stacked(red, blue), negative=blue, cfg=SCALE).run(ctx)
        after = step.trajectory.latents[0]
        offset = path.latents[k - 1, 0] - after[0]
        torch.testing.assert_close(after[0] + offset, held[k - 1, 0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(after[1], held[k - 1, 1], atol=1e-3, rtol=1e-3)


def test_its_outputs_are_what_a_sampler_needs(direct, ctx, path, red, blue, device):
    out = direct(start=0.5)
    assert out.sigmas.values.tolist() == path.sigmas[:3].flip(0).tolist()
    assert torch.equal(out.latent.x, path.latents[2] / 0.18215)
    both = SourceAndTarget(samples=out.latent, source=red, target=blue).run(ctx)
    guider = Guider(out.model, CFG(both.positive, blue, SCALE))
    x = sample(guider, Noise(None), Sampler.of("ddim"), out.sigmas, both.latent, device)[0].x
    torch.testing.assert_close(x[0] * 0.18215, path.latents[0, 0])


def test_prompt_to_prompt_sees_the_true_source(states, direct, ctx, path, red, blue):
    """Around direct inversion it gives what it gives with the trajectory as its own input."""
    alignment = AlignPrompts(positive=stacked(red, blue), mode="replace").run(ctx)
    around = PromptToPrompt(model=direct().model, alignment=alignment).run(ctx)
    own = PromptToPrompt(model=direct().model.__class__(around.weights), alignment=alignment, trajectory=path).run(ctx)
    assert torch.equal(states(around), states(own))
    assert torch.equal(states(around)[:, 0], path.latents[:, 0])


def test_what_cannot_be_is_refused(direct, path, ctx, model, red, blue):
    with pytest.raises(ValueError, match="that of one picture is wanted, of 2 given"):
        direct(trajectory=Trajectory(path.latents.expand(-1, 2, -1, -1, -1), path.sigmas))
    with pytest.raises(ValueError, match="4 channels are wanted by this model, 16 given"):
        direct(trajectory=Trajectory(torch.zeros(3, 1, 16, 8, 8), torch.arange(3.0)))
    with pytest.raises(ValueError, match="one picture given; use SourceAndTarget"):
        ReplayTrajectory(model=direct().model, trajectory=path, positive=red).run(ctx)
    with pytest.raises(ValidationError):
        direct(start=-0.1)
