import math

import pytest
import torch

from diffusion.samplers.seeds import Segments, phi_1, phi_2
from diffusion.schedule import Schedule


@pytest.mark.parametrize("k", [0.05, 0.9, 4.0])
def test_phi_are_the_weights_of_a_constant_and_a_line(k):
    u = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    weight = torch.exp(-k * (1 - u)) * k
    assert phi_1(k) == pytest.approx(torch.trapezoid(weight, u).item())
    assert phi_2(k) == pytest.approx(torch.trapezoid(weight * u, u).item(), abs=1e-9)


@pytest.mark.parametrize(
    ("name", "options"),
    [("exp_heun_2_x0", {}), ("seeds_2", {"solver_type": "phi_2", "r": 0.4, "eta": 0.0}), ("seeds_3", {"eta": 0.0})],
)
def test_a_denoiser_linear_in_lambda_is_integrated_exactly(run, name, options):
    """D = a + b lambda: x' = -(x - D) d lambda has the solution x = D - b + c e^-lambda."""
    a, b, sigma, sigma_next = 0.3, -0.8, 5.0, 0.4

    def denoise(x, sigma):
        return torch.full_like(x, a - b * math.log(sigma))

    x = torch.tensor([1.0, 4.0], dtype=torch.float64)
    c = (x - denoise(x, sigma) + b) / sigma
    exact = denoise(x, sigma_next) - b + c * sigma_next
    assert torch.allclose(run(name, denoise, x, [sigma, sigma_next], **options), exact)


def test_identities(mixture, start, run, white):
    x, sigmas = start(9.0), [9.0, 5.0, 2.0, 0.5, 0.0]
    # a stage in the middle and D from there alone: DPM-Solver++(2S)
    assert torch.allclose(run("seeds_2", mixture, x, sigmas, eta=0.0), run("dpmpp_2s_ancestral", mixture, x, sigmas, eta=0.0))
    assert torch.allclose(
        run("exp_heun_2_x0_sde", mixture, x, sigmas, white(x)), run("seeds_2", mixture, x, sigmas, white(x), r=1.0, solver_type="phi_2")
    )
    assert torch.allclose(run("exp_heun_2_x0_sde", mixture, x, sigmas, eta=0.0), run("exp_heun_2_x0", mixture, x, sigmas))
    assert torch.allclose(run("seeds_3", mixture, x, sigmas, white(x), s_noise=0.0, eta=0.0), run("seeds_3", mixture, x, sigmas, eta=0.0))


def test_the_stages_of_a_step_share_one_path(table):
    """Variance sigma_r^2 (1 - e^(-2 r h eta)) at every share r, correlated as an Ornstein-Uhlenbeck process is."""
    rng, eta = torch.Generator().manual_seed(0), 0.7
    asked = []

    def draw(a, b):
        asked.append((a, b))
        return torch.randn(50_000, generator=rng)

    s = Schedule(table, [8.0, 2.0])[0]
    path = Segments(s, eta, 1.0, draw)
    shares = [1 / 3, 2 / 3, 1.0]
    z = torch.stack([path.noise(r) / path.level(r) for r in shares])
    h = math.log(4.0)
    for i, r in enumerate(shares):
        for j, q in enumerate(shares[: i + 1]):
            covariance = math.exp(-(r - q) * h * eta) * -math.expm1(-2 * q * h * eta)
            assert (z[i] * z[j]).mean().item() == pytest.approx(covariance, abs=0.015)
    levels = [8.0, 8.0 / 4 ** (1 / 3), 8.0 / 4 ** (2 / 3), 2.0]
    assert [level for pair in asked for level in pair] == pytest.approx([levels[k] for k in (0, 1, 1, 2, 2, 3)])


def test_the_draws_of_a_step_are_always_as_many(gaussian, run):
    """Also where the stage lies at the end of the step and its own noise is all there is: seeds keep their meaning."""
    for name, draws in (("seeds_2", 2), ("exp_heun_2_x0_sde", 2), ("seeds_3", 3)):
        asked = []
        run(name, gaussian, torch.ones(3), [9.0, 4.0, 0.0], lambda a, b, asked=asked: asked.append(a) or torch.zeros(3))
        assert len(asked) == draws


@pytest.mark.parametrize(
    ("name", "options", "wanted"),
    [
        ("seeds_2", {"r": 0.0}, "r:"),
        ("seeds_2", {"r": 1.5}, "r:"),
        ("seeds_2", {"solver_type": "phi_3"}, "solver_type"),
        ("seeds_3", {"r_1": 0.7, "r_2": 0.6}, "r_1, r_2"),
        ("exp_heun_2_x0", {"solver_type": "heun"}, "solver_type"),
    ],
)
def test_options_that_make_no_method(run, name, options, wanted):
    with pytest.raises(ValueError, match=wanted):
        run(name, None, torch.zeros(1), [1.0, 0.5], **options)
