"""Walks that are remembered, levels by share, and stored paths as batches of rows."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion.guidance import CFG
from diffusion.process import Process
from diffusion.samplers import Bare, integrate, make_stepper
from diffusion.schedule import Schedule
from diffusion.session import open_session
from diffusion.trajectory import descent, distances, level, only_entry, picked, posterior, replay_step, rows_of, walk, with_uncond
from diffusion.values import Conditioning, Trajectory

TABLE = Process().table()
LEVELS = [0.0, 0.5, 2.0, 8.0]


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def path(b=1, levels=LEVELS, **more):
    return Trajectory(noise(len(levels), b, 4, 8, 8), torch.tensor(levels), **more)


@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp_2m"])
def test_a_walk_is_the_integration_and_remembers_where_it_was(name):
    net, down, x = Bare(lambda x, sigma: x / (1 + sigma**2)), Schedule(TABLE, LEVELS[::-1]), noise(1, 4, 2, 2)
    told = []
    states = walk(net, make_stepper(name), x, down, lambda i, n, x0: told.append((i, n)))
    assert len(states) == 4
    assert states[0] is x
    assert torch.equal(states[-1], integrate(make_stepper(name), net, x, down))
    assert told == [(1, 3), (2, 3), (3, 3)]


@given(st.floats(0.1, 100), st.just(0.0) | st.floats(0.01, 0.99), st.just(0.0) | st.floats(0.01, 1))
def test_a_stochastic_step_keeps_the_variance_of_its_level(sigma, share, eta):
    """Of x = x0 + σε the step down with η arrives at σ', whatever η: its mean and its noise share σ' between them."""
    (s,) = Schedule(TABLE, [sigma, sigma * share])
    mean, unit = posterior(torch.ones(1), torch.zeros(1), s, eta)
    if s.sigma_next and eta:
        assert (mean.item() * sigma) ** 2 + unit**2 == pytest.approx(s.sigma_next**2, rel=1e-5)
    else:
        assert mean.item() * sigma == pytest.approx(s.sigma_next, rel=1e-5)
        assert unit == sigma


@given(st.floats(0.1, 100), st.floats(0.05, 0.95), st.floats(0.05, 1))
def test_its_noise_is_that_of_ddim(sigma, share, eta):
    """σ_η = η·√((1 − ᾱ_s)/(1 − ᾱ_t))·√(1 − ᾱ_t/ᾱ_s) of VP states (Song et al. 2021, eq. 16), and it enters with its square."""
    (s,) = Schedule(TABLE, [sigma, sigma * share])
    ab_t, ab_s = s.alpha_t**2, s.alpha_u**2
    wanted = eta * math.sqrt((1 - ab_s) / (1 - ab_t) * (1 - ab_t / ab_s))
    mean, unit = posterior(torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64), s, eta)
    assert unit * s.alpha_u == pytest.approx(wanted, rel=1e-6)
    assert mean.item() * sigma * s.alpha_u == pytest.approx(math.sqrt(1 - ab_s - wanted**2), rel=1e-6)


def test_a_level_is_the_nearest_to_a_share_of_the_steps():
    fifty = Trajectory(torch.zeros(51, 1, 4, 1, 1), torch.arange(51.0))
    assert [level(fifty, share) for share in (0, 0.58, 0.29, 0.8, 1)] == [0, 29, 14, 40, 50]


def test_a_descent_starts_at_its_level_with_a_row_for_each_prompt():
    one, two = path(), path(2)
    x, sigmas = descent(one, 2, rows=3)
    assert torch.equal(x, one.latents[2].expand(3, -1, -1, -1))
    assert sigmas.tolist() == [2.0, 0.5, 0.0]
    assert torch.equal(descent(two, 3)[0], two.latents[3])
    assert torch.equal(descent(two, 3, rows=2)[0], two.latents[3])
    with pytest.raises(ValueError, match="that of one picture or of 3 is wanted by the prompts, of 2 given"):
        descent(two, 3, rows=3)
    for levels in ([0.0, 2.0, 2.0, 8.0], [8.0, 2.0, 0.5, 0.0]):
        with pytest.raises(ValueError, match="levels that rise from one to the next are wanted"):
            descent(path(levels=levels), 3)


def test_a_replay_takes_the_noise_of_its_level_and_ddim_where_there_is_none():
    net, z = Bare(lambda x, sigma: torch.zeros_like(x)), noise(3, 1, 4, 8, 8, seed=1)
    stored = path(noises=z, eta=1.0)
    down = Schedule(TABLE, [2.0, 0.5, 0.0])
    x, x0 = replay_step(stored, 2)(net.denoise, torch.ones(2, 4, 8, 8), down[0], None)
    mean, unit = posterior(torch.ones(1), torch.zeros(1), down[0], 1.0)
    torch.testing.assert_close(x, mean + unit * z[1].expand(2, -1, -1, -1))
    assert not x0.any()
    last = replay_step(stored, 2)(net.denoise, torch.ones(1, 4, 8, 8), down[1], None)[0]
    torch.testing.assert_close(last, 0.5 * z[0])
    plain = integrate(replay_step(path(), 2), net, torch.ones(1, 4, 8, 8), down)
    assert torch.equal(plain, integrate(make_stepper("ddim"), net, torch.ones(1, 4, 8, 8), down))


def test_embeddings_of_each_step_take_the_place_of_the_negative_prompts(model, red, blue, device):
    embeds = blue.entries[0].embeds
    stored = path(uncond=torch.stack([embeds * k for k in (3.0, 2.0, 1.0)]))
    told = with_uncond(red, stored, 2)
    assert torch.equal(told.entries[0].per_step, torch.stack([embeds * 2, embeds]))
    assert with_uncond(red, path(), 2) is red
    assert with_uncond(red, stored, 0) is red
    last = Schedule(TABLE, [2.0, 0.5, 0.0])[1]
    with open_session(model, CFG(red, told, 3.0), device) as a, torch.no_grad():
        a.before(x := noise(1, 4, 8, 8), last)
        seen = a.denoise(x, 0.5)
    with open_session(model, CFG(red, blue, 3.0), device) as b, torch.no_grad():
        assert torch.equal(seen, b.denoise(x, 0.5))
    with pytest.raises(ValueError, match="negative: one entry is wanted, 2 given"):
        with_uncond(Conditioning((*red, *blue)), stored, 2)
    with pytest.raises(ValueError, match="embeddings of width 32 are wanted by the text encoder, 7 given"):
        with_uncond(red, path(uncond=torch.zeros(3, 1, 12, 7)), 2)


def test_what_a_conditioning_tells_a_batch(red, blue):
    assert rows_of(red) == 1
    assert rows_of(red.map(embeds=torch.zeros(3, 12, 32))) == 3
    assert only_entry(red, "positive") is red.entries[0]


def test_distances_are_root_mean_squares_of_vp_states():
    a = path()
    moved = Trajectory(torch.cat([a.latents[:3] + 2.0, noise(3, 1, 4, 8, 8)], dim=1), a.sigmas[:3])
    expected = [2.0, 2 / math.sqrt(1.25), 2 / math.sqrt(5)]
    assert distances(a, moved).tolist() == pytest.approx(expected, rel=1e-6)
    assert distances(a, a).tolist() == [0.0] * 4
    with pytest.raises(ValueError, match="the levels of the trajectory are wanted"):
        distances(a, path(levels=[0.0, 1.0, 2.0, 8.0]))
    with pytest.raises(ValueError, match="latents like"):
        distances(path(2), a)
    with pytest.raises(ValueError, match="latents like"):
        distances(a, Trajectory(torch.zeros(4, 1, 4, 8, 16), a.sigmas))


@given(st.integers(1, 200), st.integers(1, 64))
def test_picked_levels_include_both_ends(steps, count):
    levels = picked(steps, count)
    assert levels == sorted(set(levels))
    assert len(levels) == min(count, steps + 1)
    assert levels[0] == 0
    assert count == 1 or levels[-1] == steps
