"""The inversion report: figures of known differences."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from diffusion.compare import psnr
from diffusion.vae import decode
from diffusion.values import Image, Latent, Trajectory
from graph_engine.errors import NodeError
from nodes.inversion_report import InversionReport, table

SIGMAS = torch.tensor([0.0, 1.0, 7.0])


def path(move=0.0, b=1, evaluations=3, seed=0):
    x = torch.randn(3, b, 4, 4, 4, generator=torch.Generator().manual_seed(seed))
    return Trajectory(x + move, SIGMAS, evaluations=evaluations)


def shown(vae, trajectory, device):
    return decode(vae, Latent(trajectory.latents[0] / 0.18215), device).pixels


def test_a_path_compared_with_itself_is_without_error(ctx, vae, device):
    kept = shown(vae, path(), device)
    out = InversionReport(trajectory=path(), replay=path(evaluations=6), vae=vae, image=Image(kept)).run(ctx)
    assert out.errors == [0.0, 0.0, 0.0]
    assert (out.psnr, out.ceiling, out.to_ceiling) == (math.inf, math.inf, math.inf)
    assert out.metrics["evaluations_inversion"] == 3
    assert out.metrics["evaluations_replay"] == 6


def test_distances_are_per_level_in_vp_form(ctx):
    out = InversionReport(trajectory=path(), replay=path(0.5)).run(ctx)
    assert out.errors == pytest.approx([0.5, 0.5 / math.sqrt(2), 0.5 / math.sqrt(50)], rel=1e-5)
    assert out.metrics["error_clean"] == pytest.approx(0.5, rel=1e-5)
    assert out.metrics["error_worst"] == pytest.approx(0.5, rel=1e-5)
    assert math.isnan(out.psnr)
    assert math.isnan(out.ceiling)


def test_pictures_are_compared_with_the_true_one_and_with_the_autoencoders(ctx, vae, device):
    a, b = path(), path(0.2)
    kept, back = shown(vae, a, device), shown(vae, b, device)
    true = (kept + 0.1).clamp(0, 1)
    out = InversionReport(trajectory=a, replay=b, vae=vae, image=Image(true)).run(ctx)
    assert (out.psnr, out.ceiling, out.to_ceiling) == pytest.approx((psnr(back, true), psnr(kept, true), psnr(back, kept)))
    alone = InversionReport(trajectory=a, replay=b, vae=vae).run(ctx)
    assert alone.psnr == pytest.approx(psnr(back, kept))
    assert math.isnan(alone.ceiling)


def test_of_a_replay_beside_an_edit_the_source_counts(ctx, vae):
    rows = Trajectory(torch.cat([path().latents, path(seed=1).latents], dim=1), SIGMAS)
    out = InversionReport(trajectory=path(), replay=rows, vae=vae).run(ctx)
    assert out.errors == [0.0, 0.0, 0.0]
    assert out.to_ceiling == math.inf


def test_a_replay_from_below_is_compared_where_it_went(ctx):
    part = Trajectory(path().latents[:2], SIGMAS[:2])
    assert len(InversionReport(trajectory=path(), replay=part).run(ctx).errors) == 2


def test_the_table_goes_from_noise_to_clean_with_a_bar_for_each_error():
    rows = table(torch.tensor([0.4, 0.2, 0.0]), SIGMAS).splitlines()
    assert [row.split()[0] for row in rows[1:]] == ["2", "1", "0"]
    assert [row.count("▪") for row in rows[1:]] == [0, 15, 30]
    assert len(table(torch.rand(51), torch.arange(51.0)).splitlines()) == 12


def test_what_cannot_be_is_refused(ctx, vae):
    with pytest.raises(ValueError, match="replay: the levels of the trajectory are wanted, others given"):
        InversionReport(trajectory=path(), replay=Trajectory(path().latents, 2 * SIGMAS)).run(ctx)
    with pytest.raises(ValueError, match="replay: latents like"):
        InversionReport(trajectory=path(b=2), replay=path()).run(ctx)
    ours, theirs = (replace(path(), format=name) for name in ("sd1", "sdxl"))
    with pytest.raises(NodeError, match="replay: one of sd1 latents is wanted as trajectory is, sdxl given"):
        InversionReport(trajectory=ours, replay=theirs).run(ctx)
    with pytest.raises(NodeError, match="vae: one is wanted to compare pictures, none given"):
        InversionReport(trajectory=path(), replay=path(), image=Image(torch.zeros(1, 32, 32, 3))).run(ctx)
    with pytest.raises(NodeError, match=r"image: shape \(1, 32, 32, 3\) is wanted as the trajectory gives, \(1, 64, 32, 3\) given"):
        InversionReport(trajectory=path(), replay=path(), vae=vae, image=Image(torch.zeros(1, 64, 32, 3))).run(ctx)
