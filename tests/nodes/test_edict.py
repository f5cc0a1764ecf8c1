"""EDICT: the two steps undo each other, pictures come back through the nodes, and edits start from a coupled pair."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from diffusion.pair import stacked
from diffusion.process import Process
from diffusion.schedule import Schedule
from diffusion.values import Latent, Trajectory
from graph_engine.errors import NodeError
from nodes.ddim_inversion import DDIMInversion
from nodes.edict import EDICTDecode, EDICTInversion, edict_step, edict_step_back
from nodes.prompt_to_prompt import AlignPrompts, PromptToPrompt

STEPS, SCALE = 4, 3.0
TABLE = Process().table()


@given(st.floats(0, 12), st.floats(0.05, 2), st.floats(0.5, 1), st.integers(0, 100))
def test_the_step_up_undoes_the_step_down(low, rise, p, seed):
    x, y = torch.randn(2, 1, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    (down,) = Schedule(TABLE, [low + rise, low])
    (up,) = Schedule(TABLE, [low, low + rise])
    eps = lambda x, sigma: torch.sin(3 * x) * sigma  # noqa: E731
    back = edict_step_back(*edict_step(x, y, eps, down, p), eps, up, p)
    torch.testing.assert_close(torch.stack(back), torch.stack([x, y]), atol=1e-9, rtol=1e-9)


def test_a_step_is_the_papers():
    """x ← a·x + b·ε(y); y ← a·y + b·ε(x); x ← p·x + (1 − p)·y; y ← p·y + (1 − p)·x."""
    (s,) = Schedule(TABLE, [3.0, 1.0])
    a = (1 / (1 + 1.0)) ** 0.5 / (1 / (1 + 9.0)) ** 0.5
    b = (1 - 0.5) ** 0.5 - a * (1 - 0.1) ** 0.5
    x, y = torch.tensor([1.0], dtype=torch.float64), torch.tensor([2.0], dtype=torch.float64)
    u = a * 1 + b * (2.0**2)
    v = a * 2 + b * u**2
    first = 0.9 * u + 0.1 * v
    got = edict_step(x, y, lambda x, sigma: x**2, s, 0.9)
    assert [t.item() for t in got] == pytest.approx([first, 0.9 * v + 0.1 * first])


@pytest.fixture
def latent():
    return Latent(torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def invert(ctx, model, red, blue, latent):
    def run(**inputs):
        given = {"model": model, "samples": latent, "positive": red, "negative": blue, "steps": STEPS, "cfg": SCALE}
        return EDICTInversion(**given | inputs).run(ctx)

    return run


@pytest.fixture
def decode(ctx, model, red, blue):
    def run(path, **inputs):
        given = {"model": model, "trajectory": path, "positive": red, "negative": blue, "cfg": SCALE, "start": 1.0}
        return EDICTDecode(**given | inputs).run(ctx)

    return run


@pytest.mark.parametrize("start", [1.0, 0.5, 0.25, 0.0])
def test_pictures_come_back_from_every_level(invert, decode, latent, start):
    path = invert().trajectory
    out = decode(path, start=start)
    torch.testing.assert_close(out.latent.x, latent.x, atol=1e-4, rtol=1e-4)
    n = len(out.trajectory.latents)
    assert n == round(start * STEPS) + 1
    torch.testing.assert_close(out.trajectory.latents, path.latents[:n], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(out.trajectory.coupled, path.coupled[:n], atol=1e-6, rtol=1e-6)


def test_double_precision_is_what_makes_it_exact(invert, decode):
    def error(precision):
        path = invert(precision=precision).trajectory
        assert path.latents.dtype == getattr(torch, precision)
        return (decode(path).trajectory.latents[0] - path.latents[0]).abs().max().item()

    assert error("float64") < 1e-9 < error("float32") < 1e-1


def test_another_prompt_or_scale_is_an_edit(invert, decode, blue, latent):
    path = invert().trajectory
    for change in ({"positive": blue}, {"cfg": 1.0}):
        assert (decode(path, **change).latent.x - latent.x).abs().max() > 1e-2


def test_copies_part_without_mixing(invert):
    apart = [(t.latents[-1] - t.coupled[-1]).norm() for t in (invert(mixing=p).trajectory for p in (1.0, 0.93))]
    assert apart[0] != apart[1]
    assert torch.equal(invert().trajectory.latents[0], invert().trajectory.coupled[0])


def test_evaluations_are_two_a_step_and_branch(invert, decode):
    assert invert().trajectory.evaluations == 4 * STEPS
    assert invert(cfg=1.0).trajectory.evaluations == 2 * STEPS
    assert decode(invert().trajectory, start=0.5).trajectory.evaluations == 2 * STEPS


def test_beside_an_edit_the_source_comes_back_by_itself(invert, decode, ctx, model, red, blue, latent):
    """Prompt-to-Prompt needs no trajectory here: the coupled source row leads to the picture.

    To the rounding of the network, which depends on how many rows it is asked for at once: nearly nothing where as many went up.
    """
    picture, both = latent.x[:1], stacked(red, blue)
    p2p = PromptToPrompt(model=model, alignment=AlignPrompts(positive=both, mode="replace").run(ctx)).run(ctx)
    alone = invert(samples=Latent(picture)).trajectory
    beside = invert(samples=Latent(picture.repeat(2, 1, 1, 1)), positive=stacked(red, red)).trajectory
    for path, rounding in ((alone, 5e-2), (beside, 1e-3)):
        free, edited = (decode(path, model=m, positive=both).latent.x for m in (model, p2p))
        for rows in (free, edited):
            torch.testing.assert_close(rows[:1], picture, atol=rounding, rtol=rounding)
        assert (free[1] - picture[0]).abs().max() > 10 * rounding
        assert (free[1] - edited[1]).abs().max() > 1e-3


def test_what_cannot_be_is_refused(invert, decode, ctx, model, red, latent):
    single = DDIMInversion(model=model, samples=latent, positive=red, steps=2).run(ctx).trajectory
    with pytest.raises(NodeError, match="a coupled pair from EDICT Inversion is wanted, one path given; use Replay Trajectory"):
        decode(single)
    for act in (lambda: invert(negative=None), lambda: decode(invert().trajectory, negative=None)):
        with pytest.raises(NodeError, match=r"negative: a conditioning is wanted for a cfg of 3, none given"):
            act()
    with pytest.raises(ValueError, match="4 channels are wanted by this model, 16 given"):
        decode(Trajectory(torch.zeros(3, 1, 16, 8, 8), torch.arange(3.0), coupled=torch.zeros(3, 1, 16, 8, 8)))
    with pytest.raises(ValueError, match=r"Trajectory.coupled: shape"):
        replace(invert().trajectory, coupled=torch.zeros(2, 2, 4, 8, 8))
    for bad in ({"mixing": 0.4}, {"cfg": -1.0}, {"precision": "float16"}):
        with pytest.raises(ValidationError):
            invert(**bad)
