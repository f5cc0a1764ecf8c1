"""Trajectories as pictures."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from diffusion.vae import decode
from diffusion.values import Latent, Trajectory
from nodes.trajectory_strip import TrajectoryStrip

SIGMAS = [0.0, 0.5, 2.0, 8.0]


def path(b=1, **more):
    return Trajectory(torch.randn(4, b, 4, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor(SIGMAS), **more)


@pytest.mark.parametrize("count", [4, 8, 64])
def test_all_levels_are_shown_where_there_is_room(ctx, vae, count):
    out = TrajectoryStrip(trajectory=path(), vae=vae, count=count).run(ctx)
    assert out.frames.pixels.shape == (4, 32, 32, 3)
    assert out.strip.pixels.shape == (1, 32, 4 * 32, 3)


def test_frames_are_decoded_states_in_vp_form_clean_first(ctx, vae, device):
    shown = path()
    out = TrajectoryStrip(trajectory=shown, vae=vae, count=3).run(ctx)
    for frame, place, k in zip(out.frames.pixels, out.strip.pixels[0].split(32, dim=1), (0, 2, 3), strict=True):
        x = shown.latents[k] / math.sqrt(1 + SIGMAS[k] ** 2) / 0.18215
        assert torch.equal(frame, decode(vae, Latent(x), device).pixels[0])
        assert torch.equal(place, frame)
    assert torch.equal(TrajectoryStrip(trajectory=shown, vae=vae, count=1).run(ctx).frames.pixels[0], out.frames.pixels[0])


def test_each_picture_of_a_batch_has_a_row(ctx, vae):
    out = TrajectoryStrip(trajectory=path(2), vae=vae, count=2).run(ctx)
    assert out.strip.pixels.shape == (1, 64, 64, 3)
    rows = out.strip.pixels[0].split(32)
    for b in (0, 1):
        assert torch.equal(torch.cat([*out.frames.pixels[b::2]], dim=1), rows[b])


def test_double_precision_is_shown_too(ctx, vae):
    double = Trajectory(path().latents.double(), torch.tensor(SIGMAS))
    assert torch.equal(*(TrajectoryStrip(trajectory=p, vae=vae, count=4).run(ctx).strip.pixels for p in (double, path())))


def test_what_cannot_be_is_refused(ctx, vae):
    with pytest.raises(ValueError, match="4 channels are wanted by this model, 16 given"):
        TrajectoryStrip(trajectory=Trajectory(torch.zeros(2, 1, 16, 4, 4), torch.arange(2.0)), vae=vae).run(ctx)
    with pytest.raises(ValueError, match="latent is wanted by this model, flux given"):
        TrajectoryStrip(trajectory=path(format="flux"), vae=vae).run(ctx)
    with pytest.raises(ValidationError):
        TrajectoryStrip(trajectory=path(), vae=vae, count=0)
