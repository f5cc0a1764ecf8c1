"""Replays of stored paths, and what all inversions share: they report steps, stop when asked, and leave the model as it was."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from diffusion.guidance import CFG, Conditional
from diffusion.pair import stacked
from diffusion.sample import sample
from diffusion.session import open_session
from diffusion.text import encode
from diffusion.values import Guider, Latent, Noise, Sampler, Sigmas, Trajectory
from graph_engine.context import Context
from graph_engine.errors import Cancelled, NodeError
from nodes.ddim_inversion import DDIMInversion
from nodes.edict import EDICTDecode, EDICTInversion
from nodes.edit_friendly_ddpm import EditFriendlyInversion
from nodes.null_text import NullTextInversion
from nodes.trajectory_replay import ReplayTrajectory

STEPS = 4


@pytest.fixture
def latent():
    return Latent(torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def empty(clip, device):
    return encode(clip, "", device)


@pytest.fixture
def path(ctx, model, red, latent):
    return DDIMInversion(model=model, samples=latent, positive=red, steps=STEPS).run(ctx).trajectory


@pytest.fixture
def replay(ctx, model, red, path):
    def run(**inputs):
        return ReplayTrajectory(**{"model": model, "trajectory": path, "positive": red} | inputs).run(ctx)

    return run


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_without_stored_noises_it_is_ddim_over_the_paths_levels(replay, path, model, red, blue, device, scale):
    out = replay(negative=blue, cfg=scale)
    start = Latent(path.latents[-1] / 0.18215)
    plain = sample(Guider(model, CFG(red, blue, scale)), Noise(None), Sampler.of("ddim"), Sigmas(path.sigmas.flip(0)), start, device)[0]
    torch.testing.assert_close(out.latent.x, plain.x, atol=1e-4, rtol=1e-4)
    assert torch.equal(out.trajectory.sigmas, path.sigmas)
    assert torch.equal(out.trajectory.latents[-1], path.latents[-1])
    torch.testing.assert_close(out.trajectory.latents[0] / 0.18215, out.latent.x)
    assert out.trajectory.evaluations == STEPS * (1 if scale == 1 else 2)


def test_from_a_lower_level_it_changes_less(replay, path, blue):
    full, part = replay(positive=blue), replay(positive=blue, start=0.5)
    assert len(part.trajectory.latents) == 3
    assert torch.equal(part.trajectory.latents[-1], path.latents[2])
    assert (part.trajectory.latents[0] - path.latents[0]).norm() < (full.trajectory.latents[0] - path.latents[0]).norm()


def test_from_the_clean_end_it_is_the_picture(replay, path):
    out = replay(start=0.0)
    assert torch.equal(out.trajectory.latents, path.latents[:1])
    assert torch.equal(out.latent.x * 0.18215, path.latents[0])


def test_prompts_of_a_batch_start_from_one_state(replay, red, blue, path):
    both = replay(positive=stacked(red, blue))
    assert torch.equal(both.trajectory.latents[-1], path.latents[-1].expand(2, -1, -1, -1))
    for row, positive in enumerate((red, blue)):
        torch.testing.assert_close(both.latent.x[row : row + 1], replay(positive=positive).latent.x, atol=1e-4, rtol=1e-4)


def test_what_cannot_be_is_refused(replay, path, ctx, model, red, blue, latent):
    with pytest.raises(NodeError, match=r"negative: a conditioning is wanted for a cfg of 2, none given"):
        replay(cfg=2.0)
    pair = EDICTInversion(model=model, samples=latent, positive=red, steps=2, cfg=1.0).run(ctx).trajectory
    with pytest.raises(NodeError, match="a coupled pair given; use EDICT Decode"):
        replay(trajectory=pair)
    with pytest.raises(ValueError, match="4 channels are wanted by this model, 16 given"):
        replay(trajectory=Trajectory(torch.zeros(3, 1, 16, 8, 8), torch.arange(3.0)))
    with pytest.raises(ValueError, match="latent is wanted by this model, flux given"):
        replay(trajectory=Trajectory(path.latents, path.sigmas, format="flux"))
    with pytest.raises(ValueError, match="that of one picture or of 2 is wanted by the prompts, of 3 given"):
        replay(trajectory=Trajectory(path.latents.expand(-1, 3, -1, -1, -1), path.sigmas), positive=stacked(red, blue))
    with pytest.raises(ValueError, match="levels that rise"):
        replay(trajectory=Trajectory(path.latents, path.sigmas.flip(0)))
    for bad in ({"cfg": -0.1}, {"start": 1.1}):
        with pytest.raises(ValidationError):
            replay(**bad)


# -- all of them --


class Watch:
    """Counts what is reported, and stops a run after so many reports."""

    def __init__(self, most=10**9):
        self.seen, self.most = [], most

    def check(self):
        if len(self.seen) >= self.most:
            raise Cancelled

    def step(self, step, steps, preview):
        self.seen.append((step, steps))


WAYS = ["ddim", "edict", "edict decode", "edit-friendly", "null-text", "replay"]


@pytest.fixture
def node(ctx, model, red, empty, latent, path):
    def made(way):
        common = {"model": model, "positive": red, "negative": empty, "cfg": 2.0}
        picture = {"samples": latent, "steps": STEPS}
        match way:
            case "ddim":
                return DDIMInversion(**common, **picture)
            case "edict":
                return EDICTInversion(**common, **picture)
            case "edict decode":
                pair = EDICTInversion(**common, **picture).run(ctx).trajectory
                return EDICTDecode(**common, trajectory=pair, start=1.0)
            case "edit-friendly":
                return EditFriendlyInversion(**common, **picture)
            case "null-text":
                return NullTextInversion(**common, trajectory=path, inner_steps=2)
        return ReplayTrajectory(**common, trajectory=path)

    return made


@pytest.mark.parametrize("way", ["ddim", "edict", "edit-friendly"])
@pytest.mark.parametrize("name", ["positive", "negative"])
def test_prompts_that_are_not_one_for_each_picture_are_refused(way, name, node, ctx, red, blue):
    two = stacked(red, blue)
    with pytest.raises(ValueError, match=f"{name}: one prompt is wanted, or 1 as there are pictures, 2 given"):
        node(way).model_copy(update={name: two}).run(ctx)


@pytest.mark.parametrize("way", WAYS)
def test_it_reports_every_step_stops_when_asked_and_leaves_the_model_as_it_was(way, node, model, red, device, folders, latent):
    def plain():
        with open_session(model, Conditional(red), device) as net, torch.no_grad():
            return net.denoise(latent.x, 2.0)

    before, runner = plain(), node(way)
    watch = Watch()
    runner.run(Context(folders=folders, device=lambda: device, watch=watch))
    assert sorted(set(watch.seen) - {(0, STEPS)}) == [(i, STEPS) for i in range(1, STEPS + 1)]
    assert [i for i, _ in watch.seen] == sorted(i for i, _ in watch.seen)
    with pytest.raises(Cancelled):
        runner.run(Context(folders=folders, device=lambda: device, watch=Watch(most=2)))
    assert torch.equal(plain(), before)
