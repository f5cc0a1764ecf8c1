import math

import pytest
import torch

from diffusion.samplers.er_sde import noise_scale


def test_the_ode_form_of_stage_one_is_euler(mixture, start, run):
    x, sigmas = start(9.0), [9.0, 5.0, 2.0, 0.5, 0.0]
    assert torch.allclose(run("er_sde", mixture, x, sigmas, solver_type="ODE", max_stage=1), run("euler", mixture, x, sigmas))
    reverse = run("er_sde", mixture, x, sigmas, solver_type="Reverse-time SDE", eta=0.0)
    assert torch.allclose(reverse, run("er_sde", mixture, x, sigmas, solver_type="ODE"))


def test_the_reverse_sde_of_stage_one_is_ancestral_sampling(mixture, start, run, white):
    """phi = sigma^2 keeps (sigma_next / sigma)^2 of the state: the exact posterior."""
    x, sigmas = start(9.0), [9.0, 5.0, 2.0, 0.5, 0.0]
    got = run("er_sde", mixture, x, sigmas, white(x), solver_type="Reverse-time SDE", max_stage=1)
    assert torch.allclose(got, run("euler_ancestral", mixture, x, sigmas, white(x)))


def test_the_second_step_by_hand(mixture, start, run):
    """x + (dt + phi(next) I) D', with I the integral of 1 / phi over the step."""
    x = start(9.0)
    y = run("er_sde", mixture, x, [9.0, 5.0], lambda a, b: torch.zeros_like(x))
    phi = noise_scale("ER-SDE", 1.0)
    kept = phi(2.0) / phi(5.0)
    levels = torch.linspace(2.0, 5.0, 200_001, dtype=torch.float64)
    integral = torch.trapezoid(1 / (levels * (torch.exp(levels**0.3) + 10)), levels).item()
    slope = (mixture(y, 5.0) - mixture(x, 9.0)) / (5.0 - 9.0)
    expected = kept * y + (1 - kept) * mixture(y, 5.0) + (-3.0 + phi(2.0) * integral) * slope
    got = run("er_sde", mixture, x, [9.0, 5.0, 2.0], lambda a, b: torch.zeros_like(x))
    assert torch.allclose(got, expected, atol=1e-2 * slope.abs().max().item())  # 200 points
    assert not torch.allclose(got, kept * y + (1 - kept) * mixture(y, 5.0), atol=1e-2 * slope.abs().max().item())


def test_a_denoiser_linear_in_sigma_is_integrated_to_the_fineness_of_the_sums(run):
    def denoise(x, sigma):
        return torch.full_like(x, 0.2 + 0.3 * sigma)

    x = torch.zeros(1, dtype=torch.float64)
    before, after = (run("er_sde", denoise, x, [4.0, 3.0, 2.2, 1.4][:n], solver_type="ODE") for n in (3, 4))
    exact = before * 1.4 / 2.2 + 0.2 * (1 - 1.4 / 2.2) + 0.3 * 1.4 * math.log(2.2 / 1.4)
    assert after.item() == pytest.approx(exact.item(), abs=3e-4)


def test_the_third_stage_adds_the_second_difference(mixture, start, run):
    """(dt^2 / 2 + phi(next) J) D'', where J is the integral of (t - sigma) / phi(t); phi is sigma in the ODE."""
    x, levels = start(4.0), [4.0, 3.0, 2.2, 1.4]
    states = [x, *(run("er_sde", mixture, x, levels[:n], solver_type="ODE") for n in (2, 3))]
    d = [mixture(y, sigma) for y, sigma in zip(states, levels, strict=False)]
    d_1, d_2 = (d[1] - d[0]) / (3.0 - 4.0), (d[2] - d[1]) / (2.2 - 3.0)
    first = states[2] * 1.4 / 2.2 + d[2] * (1 - 1.4 / 2.2) + (-0.8 + 1.4 * math.log(2.2 / 1.4)) * d_2
    second = (0.8**2 / 2 + 1.4 * (0.8 - 2.2 * math.log(2.2 / 1.4))) * 2 * (d_2 - d_1) / (2.2 - 4.0)
    got = run("er_sde", mixture, x, levels, solver_type="ODE")
    assert torch.allclose(got, first + second, atol=3e-3 * d_2.abs().max().item())
    assert second.abs().max() > 9e-3 * d_2.abs().max()


@pytest.mark.parametrize("type", ["ER-SDE", "Reverse-time SDE"])
def test_one_step_has_the_noise_that_its_level_lacks(gaussian, run, type):
    x = torch.full((50_000,), 3.0)
    rng = torch.Generator().manual_seed(0)
    out = run("er_sde", gaussian, x, [4.0, 2.0], lambda a, b: torch.randn(50_000, generator=rng), solver_type=type, eta=0.4)
    phi = noise_scale(type, 0.4)
    assert out.std().item() == pytest.approx(math.sqrt(2.0**2 - (4.0 * phi(2.0) / phi(4.0)) ** 2), rel=0.02)


def test_what_is_refused(run, gaussian):
    with pytest.raises(ValueError, match="solver_type"):
        run("er_sde", None, torch.zeros(1), [1.0, 0.5], solver_type="SDE")
    with pytest.raises(ValueError, match="max_stage"):
        run("er_sde", None, torch.zeros(1), [1.0, 0.5], max_stage=4)
    with pytest.raises(ValueError, match="only goes down"):
        run("er_sde", gaussian, torch.zeros(1), [1.0, 2.0])
