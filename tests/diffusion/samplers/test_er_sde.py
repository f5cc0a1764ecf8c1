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


def test_later_stages_are_exact_for_polynomials_in_sigma(run):
    """The ODE with D a parabola of sigma: three stages have its slope and curvature; the sums over 200 points are what is left."""

    def denoise(x, sigma):
        return torch.full_like(x, 0.2 + 0.3 * sigma - 0.05 * sigma**2)

    sigmas, x = [4.0, 3.0, 2.2, 1.4], torch.zeros(1, dtype=torch.float64)
    truth = run("lms", denoise, x, torch.linspace(2.2, 1.4, 2001, dtype=torch.float64))
    before = [run("er_sde", denoise, x, sigmas[:3], solver_type="ODE", max_stage=stage) for stage in (1, 2, 3)]
    after = [run("er_sde", denoise, x, sigmas, solver_type="ODE", max_stage=stage) for stage in (1, 2, 3)]
    errors = [(b - a * 1.4 / 2.2 - truth).abs().item() for a, b in zip(before, after, strict=True)]  # the ODE is linear in X
    assert errors[2] < 2e-4
    assert errors[2] < errors[1] / 3 < errors[0] / 9


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
