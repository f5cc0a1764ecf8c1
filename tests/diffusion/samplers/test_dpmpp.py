import math

import pytest
import torch

from diffusion.samplers import BrownianNoise
from diffusion.spacing import sigmas_for


def test_2m_is_exact_for_a_constant_denoiser(run):
    x = torch.tensor([3.0, -2.0], dtype=torch.float64)
    for name in ("dpmpp_2m", "dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde", "res_multistep", "dpmpp_sde"):
        options = {} if name in ("dpmpp_2m", "res_multistep") else {"eta": 0.0}
        out = run(name, lambda x, s: torch.full_like(x, 0.7), x, [9.0, 4.0, 1.5, 0.3], **options)
        assert torch.allclose(out, 0.7 + (x - 0.7) * 0.3 / 9.0), name


def test_2m_step_by_hand(gaussian, run):
    """X2 = (s2/s1) X1 - (e^-h - 1) [(1 + 1/2r) D1 - (1/2r) D0], r = h0/h."""
    x = torch.tensor([5.0], dtype=torch.float64)
    d_0 = gaussian(x, 8.0)
    x_1 = 4 / 8 * x + (1 - 4 / 8) * d_0
    d_1 = gaussian(x_1, 4.0)
    h, r = math.log(4 / 1), math.log(8 / 4) / math.log(4 / 1)
    expected = 1 / 4 * x_1 - math.expm1(-h) * ((1 + 1 / (2 * r)) * d_1 - 1 / (2 * r) * d_0)
    assert torch.allclose(run("dpmpp_2m", gaussian, x, [8.0, 4.0, 1.0]), expected)


def test_identities_without_noise(mixture, start, run):
    x, sigmas = start(9.0), [9.0, 5.0, 2.0, 0.5, 0.0]
    assert torch.allclose(run("dpmpp_2m_sde", mixture, x, sigmas, eta=0.0), run("dpmpp_2m", mixture, x, sigmas))
    # a line through two denoised states, integrated exactly, is one method under two names
    heun = run("dpmpp_2m_sde", mixture, x, sigmas, eta=0.0, solver_type="heun")
    assert torch.allclose(heun, run("res_multistep", mixture, x, sigmas))
    assert torch.allclose(heun, run("dpmpp_2m_sde_heun", mixture, x, sigmas, eta=0.0))
    two_stages = run("dpmpp_sde", mixture, x, sigmas, eta=0.0)
    assert torch.allclose(two_stages, run("dpmpp_2s_ancestral", mixture, x, sigmas, eta=0.0))
    # in the first two steps no more than two denoised states are known
    assert torch.allclose(run("dpmpp_3m_sde", mixture, x, sigmas[:3], eta=0.0), run("res_multistep", mixture, x, sigmas[:3]))


def test_3m_step_by_hand(mixture, run):
    """The third step, from three denoised states at lambda = 0, -r0 and -(r0 + r1) in units of the step."""
    x = torch.tensor([5.0, -7.0], dtype=torch.float64)
    levels = [9.0, 5.0, 3.0, 1.0]
    states = [
        x,
        run("dpmpp_3m_sde", mixture, x, levels[:2], eta=0.0),
        run("dpmpp_3m_sde", mixture, x, levels[:3], eta=0.0),
    ]
    d_2, d_1, d_0 = (mixture(y, sigma) for y, sigma in zip(states, levels, strict=False))
    h = math.log(3 / 1)
    r_0, r_1 = math.log(5 / 3) / h, math.log(9 / 5) / h
    first = (d_0 - d_1) / r_0
    second = (first - (d_1 - d_2) / r_1) / (r_0 + r_1)  # the second divided difference
    phi_1 = (1 - math.exp(-h)) / h
    phi_2 = 1 - phi_1
    phi_3 = phi_2 / h - 1 / 2
    expected = states[2] / 3 + h * phi_1 * d_0 + phi_2 * (first + r_0 * second) - phi_3 * second
    assert torch.allclose(run("dpmpp_3m_sde", mixture, x, levels, eta=0.0), expected)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_one_sde_step_has_the_variance_of_its_equation(gaussian, run, eta):
    """From a fixed X the noise of a step is sigma_next^2 (1 - e^(-2 h eta))."""
    x = torch.full((50_000,), 3.0)
    out = run("dpmpp_2m_sde", gaussian, x, [4.0, 2.0], BrownianNoise(1, x, 2.0, 4.0), eta=eta)
    assert out.std().item() == pytest.approx(2.0 * math.sqrt(1 - 0.5 ** (2 * eta)), rel=0.02)
    mean = 0.5 ** (1 + eta) * 3.0 + (1 - 0.5 ** (1 + eta)) * gaussian(x[0], 4.0).item()
    assert out.mean().item() == pytest.approx(mean, abs=0.03)


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("dpmpp_sde", 0.03), ("dpmpp_2m_sde", 0.03), ("dpmpp_2m_sde_heun", 0.03), ("dpmpp_3m_sde", 0.03)],
)
def test_sde_solvers_reach_the_data(table, gaussian, run, name, tolerance):
    """Mean and spread of 20,000 samples of N(0.4, 0.5^2) at 50 steps."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, generator=rng) * table.sigma_max + gaussian.mu
    sigmas = sigmas_for(table, "karras", 50)
    out = run(name, gaussian, x, sigmas, BrownianNoise(9, x, sigmas[-2].item(), sigmas[0].item()))
    assert out.mean().item() == pytest.approx(gaussian.mu, abs=0.02)
    assert out.std().item() == pytest.approx(gaussian.s, rel=tolerance)


def test_an_sde_solver_keeps_the_weights_of_a_mixture(table, mixture, run):
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, generator=rng) * table.sigma_max
    sigmas = sigmas_for(table, "karras", 50)
    out = run("dpmpp_2m_sde", mixture, x, sigmas, BrownianNoise(9, x, sigmas[-2].item(), sigmas[0].item()))
    assert (out < -0.2).float().mean().item() == pytest.approx(0.3, abs=0.02)


def test_more_steps_converge_to_one_picture_per_seed(table, mixture, run):
    """The Brownian motion is a function of the level, whatever the number of steps: solutions converge path by path."""
    x = torch.randn(400, generator=torch.Generator().manual_seed(0)) * 10
    results = [
        run("dpmpp_2m_sde", mixture, x, torch.linspace(10 ** (1 / 3), 0.2 ** (1 / 3), n + 1) ** 3, BrownianNoise(4, x, 0.2, 10.0))
        for n in (15, 45, 135)
    ]
    near = (results[1] - results[2]).abs().mean().item()
    far = (results[0] - results[2]).abs().mean().item()
    other = run("dpmpp_2m_sde", mixture, x, torch.linspace(10 ** (1 / 3), 0.2 ** (1 / 3), 136) ** 3, BrownianNoise(5, x, 0.2, 10.0))
    assert near < far / 2
    assert near < 0.25 * (other - results[2]).abs().mean().item()


def test_the_two_stages_of_dpmpp_sde_share_their_path(gaussian, run):
    asked = []

    def source(a, b):
        asked.append((a, b))
        return torch.zeros(1)

    run("dpmpp_sde", gaussian, torch.ones(1), [9.0, 4.0, 0.0], source)
    assert asked == [(9.0, pytest.approx(6.0)), (9.0, 4.0)]


@pytest.mark.parametrize("name", ["res_multistep_ancestral", "dpmpp_2s_ancestral"])
def test_where_eta_leaves_nothing_of_a_state_noise_replaces_it(gaussian, run, name):
    """sigma_down = 0: the denoised state, noised to sigma_next."""
    x = torch.tensor([5.0], dtype=torch.float64)
    out = run(name, gaussian, x, [4.0, 2.0], lambda a, b: torch.ones(1), eta=100.0)
    assert torch.allclose(out, gaussian(x, 4.0) + 2)


def test_r_is_a_share_of_the_step(run):
    with pytest.raises(ValueError, match="r:"):
        run("dpmpp_sde", None, torch.zeros(1), [1.0, 0.5], r=0.0)
