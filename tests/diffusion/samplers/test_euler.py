import math

import pytest
import torch

from diffusion.samplers import Bare, WhiteNoise, ddim_step, eps_of, integrate, make_stepper
from diffusion.samplers.euler import ancestral
from diffusion.schedule import Schedule
from diffusion.spacing import flip, sigmas_for


def noises(x, seed=2):
    """The same white noise every time it is made, in float64."""
    rng = torch.Generator().manual_seed(seed)
    return lambda a, b: torch.randn(x.shape, generator=rng, dtype=x.dtype)


@pytest.mark.parametrize("spacing", ["karras", "normal", "ddim_uniform"])
def test_ddim_is_euler(table, mixture, start, run, spacing):
    sigmas, x = sigmas_for(table, spacing, 20), start(14.6)
    assert torch.allclose(run("ddim", mixture, x, sigmas), run("euler", mixture, x, sigmas), atol=1e-12)


def test_the_vp_step_is_the_ve_step(table, mixture, start):
    s = Schedule(table, [3.0, 1.2])[0]
    x = start(3.0)
    d = (x - mixture(x, 3.0)) / 3.0
    x_u, x0 = ddim_step(eps_of(mixture), x * s.alpha_t, s)
    assert torch.allclose(x_u / s.alpha_u, x + d * (1.2 - 3.0), atol=1e-12)
    assert torch.allclose(x0, mixture(x, 3.0), atol=1e-12)
    assert torch.allclose(x_u, s.a * x * s.alpha_t + s.b * d, atol=1e-12)


def test_ddpm_is_euler_ancestral(table, mixture, start, run):
    sigmas, x = sigmas_for(table, "karras", 20), start(14.6)
    assert torch.allclose(run("ddpm", mixture, x, sigmas, noises(x)), run("euler_ancestral", mixture, x, sigmas, noises(x)), atol=1e-11)


@pytest.mark.parametrize("name", ["euler_ancestral", "dpm_2_ancestral", "dpmpp_2s_ancestral", "res_multistep_ancestral"])
def test_without_eta_no_noise_is_drawn(mixture, start, run, name):
    x = start(8.0)
    out = run(name, mixture, x, [8.0, 4.0, 2.0, 1.0, 0.0], eta=0.0)  # the default source would raise
    assert bool(out.isfinite().all())


def test_ancestral_levels():
    down, up = ancestral(4.0, 2.0, 1.0)
    assert down == pytest.approx(2.0**2 / 4.0)  # the exact posterior
    assert down**2 + up**2 == pytest.approx(2.0**2)
    assert ancestral(4.0, 2.0, 0.0) == (2.0, 0.0)
    assert ancestral(4.0, 2.0, 100.0) == (0.0, 2.0)  # all that there is, not more
    with pytest.raises(ValueError, match="only goes down"):
        ancestral(2.0, 4.0, 1.0)


def test_inversion_asks_at_the_target_level(table, gaussian):
    levels = []

    def denoise(x, sigma):
        levels.append(sigma)
        return gaussian(x, sigma)

    schedule = Schedule(table, [5.0, 2.0, 1.0, 0.0]).reversed()
    integrate(make_stepper("ddim"), Bare(denoise), torch.zeros(3), schedule)
    assert levels == [1.0, 2.0, 5.0]


def test_inversion_undoes_a_step_whose_slope_does_not_change(table):
    """With the same eps at both ends of the step, inversion is exact."""
    eps = torch.tensor([0.3, -1.1], dtype=torch.float64)
    schedule = Schedule(table, [5.0, 2.0, 0.7, 0.0])
    x = torch.tensor([1.0, -2.0], dtype=torch.float64)
    y = x
    for s in schedule:
        y, _ = ddim_step(lambda x, sigma: eps, y, s)
    for s in schedule.reversed():
        y, _ = ddim_step(lambda x, sigma: eps, y, s)
    assert torch.allclose(x, y, atol=1e-12)


def test_inversion_round_trip_error_falls_with_the_steps(table, mixture):
    x0 = torch.linspace(-1.4, 1.0, 41, dtype=torch.float64)
    errors = []
    for steps in (10, 40, 160):
        down = Schedule(table, sigmas_for(table, "normal", steps))
        x_k = integrate(make_stepper("ddim"), Bare(mixture), x0, down.reversed())
        back = integrate(make_stepper("ddim"), Bare(mixture), x_k, down)
        errors.append((back - x0).square().mean().item())
    assert errors[0] > 4 * errors[1] > 16 * errors[2]
    assert errors[2] < 1e-3


def test_the_target_time_convention_beats_the_source_time(table, mixture):
    """On a spacing like DDIM's; Euler on flipped levels asks at the level it leaves."""
    x0 = torch.linspace(-1.4, 1.0, 41, dtype=torch.float64)
    sigmas = sigmas_for(table, "ddim_uniform", 50)
    down = Schedule(table, sigmas)
    target = integrate(make_stepper("ddim"), Bare(mixture), x0, down.reversed())
    source = integrate(make_stepper("euler"), Bare(mixture), x0, Schedule(table, flip(sigmas)))
    errors = [(integrate(make_stepper("ddim"), Bare(mixture), x, down) - x0).square().mean().item() for x in (target, source)]
    assert errors[0] < errors[1]


def test_euler_cannot_leave_level_zero(table, gaussian):
    with pytest.raises(ValueError, match="level 0"):
        integrate(make_stepper("euler"), Bare(gaussian), torch.zeros(2), Schedule(table, [0.0, 1.0]))


@pytest.mark.parametrize("name", ["euler_ancestral", "ddpm", "dpmpp_sde", "dpm_2_ancestral"])
def test_samplers_that_add_noise_only_go_down(table, gaussian, name):
    x = torch.zeros(2)
    with pytest.raises(ValueError, match="only goes down"):
        integrate(make_stepper(name), Bare(gaussian), x, Schedule(table, [1.0, 2.0]), WhiteNoise(0, x))


def test_lcm_puts_fresh_noise_on_x0(table, gaussian):
    x, z = torch.ones(3), torch.tensor([1.0, -1.0, 0.5])
    out = integrate(make_stepper("lcm"), Bare(gaussian), x, Schedule(table, [4.0, 2.0]), lambda a, b: z)
    assert torch.allclose(out, gaussian(x, 4.0) + 2.0 * z)
    last = integrate(make_stepper("lcm"), Bare(gaussian), x, Schedule(table, [4.0, 0.0]), lambda a, b: z)
    assert torch.allclose(last, gaussian(x, 4.0))


@pytest.mark.parametrize("name", ["euler_ancestral", "ddpm"])
def test_ancestral_sampling_has_the_mean_and_spread_of_its_recursion(table, gaussian, run, name):
    """On Gaussian data each step is linear and the spread of its output known; with many steps it is the data's."""
    spreads = []
    for steps in (30, 300):
        sigmas = sigmas_for(table, "karras", steps)
        variance = table.sigma_max**2 + gaussian.s**2
        x = gaussian.mu + math.sqrt(variance) * torch.randn(20_000, generator=torch.Generator().manual_seed(0))
        out = run(name, gaussian, x, sigmas, noises(x))
        for sigma, sigma_next in zip(sigmas.tolist(), sigmas.tolist()[1:], strict=False):
            down = sigma_next**2 / sigma
            slope = down / sigma + (1 - down / sigma) * gaussian.s**2 / (gaussian.s**2 + sigma**2)
            variance = slope**2 * variance + sigma_next**2 - down**2
        assert out.mean().item() == pytest.approx(gaussian.mu, abs=0.02)
        assert out.std().item() == pytest.approx(math.sqrt(variance), rel=0.02)
        spreads.append(out.std().item())
    assert spreads[1] == pytest.approx(gaussian.s, rel=0.025)
