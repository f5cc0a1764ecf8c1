"""Negative-prompt inversion: guidance cancels out where the source prompt stands in for the empty one."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from diffusion.loading import open_checkpoint
from diffusion.text import encode
from diffusion.values import Conditioning, Latent
from nodes.ddim_inversion import DDIMInversion
from nodes.negative_prompt_inversion import NegativePromptInversion
from nodes.trajectory_replay import ReplayTrajectory

STEPS = 4


@pytest.fixture
def path(ctx, model, red):
    latent = Latent(torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)))
    return DDIMInversion(model=model, samples=latent, positive=red, steps=STEPS).run(ctx).trajectory


@pytest.mark.parametrize("scale", [0.0, 2.0, 7.5])
def test_the_source_comes_back_as_without_guidance_whatever_the_scale(ctx, model, red, blue, path, scale):
    plain = ReplayTrajectory(model=model, trajectory=path, positive=red).run(ctx).latent.x
    out = NegativePromptInversion(trajectory=path, positive=red).run(ctx)
    for given in ({"trajectory": out.trajectory, "negative": blue}, {"trajectory": path, "negative": out.negative}):
        guided = ReplayTrajectory(model=model, positive=red, cfg=scale, **given).run(ctx).latent.x
        torch.testing.assert_close(guided, plain, atol=1e-3, rtol=1e-3)


def test_what_sdxl_pools_of_the_source_stands_in_too(ctx, device, tmp_path):
    place = Path(__file__).parents[1] / "tools" / "make_checkpoint.py"
    spec = importlib.util.spec_from_file_location("make_checkpoint", place)
    tool = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    save_file(tool.make("sdxl"), tmp_path / "small.safetensors")
    model, clip, _ = open_checkpoint(tmp_path / "small.safetensors")
    told, empty = (encode(clip, text, device) for text in ("a red cat", ""))
    latent = Latent(torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)))
    path = DDIMInversion(model=model, samples=latent, positive=told, steps=2).run(ctx).trajectory
    swapped = NegativePromptInversion(trajectory=path, positive=told).run(ctx).trajectory
    plain = ReplayTrajectory(model=model, trajectory=path, positive=told).run(ctx).latent.x
    guided = ReplayTrajectory(model=model, trajectory=swapped, positive=told, negative=empty, cfg=5.0).run(ctx).latent.x
    torch.testing.assert_close(guided, plain, atol=1e-2, rtol=1e-3)


def test_another_prompt_is_guided_away_from_the_source(ctx, model, red, blue, path):
    out = NegativePromptInversion(trajectory=path, positive=red).run(ctx)
    ours = ReplayTrajectory(model=model, trajectory=out.trajectory, positive=blue, negative=blue, cfg=3.0).run(ctx).latent.x
    told = ReplayTrajectory(model=model, trajectory=path, positive=blue, negative=red, cfg=3.0).run(ctx).latent.x
    assert torch.equal(ours, told)


def test_the_path_itself_stays_and_costs_nothing_more(ctx, red, path):
    out = NegativePromptInversion(trajectory=path, positive=red).run(ctx).trajectory
    assert out.latents is path.latents
    assert out.evaluations == path.evaluations
    assert torch.equal(out.uncond, red.entries[0].embeds.expand(STEPS, -1, -1, -1))


def test_several_entries_are_refused(ctx, red, blue, path):
    with pytest.raises(ValueError, match="positive: one entry is wanted, 2 given; encode a single prompt"):
        NegativePromptInversion(trajectory=path, positive=Conditioning((*red, *blue))).run(ctx)
