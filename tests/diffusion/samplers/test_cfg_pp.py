import math

import pytest
import torch

CFG_PP = [
    "euler_cfg_pp",
    "euler_ancestral_cfg_pp",
    "dpmpp_2s_ancestral_cfg_pp",
    "dpmpp_2m_cfg_pp",
    "res_multistep_cfg_pp",
    "res_multistep_ancestral_cfg_pp",
    "gradient_estimation_cfg_pp",
]
LEVELS = [9.0, 5.0, 2.0, 0.5, 0.0]


@pytest.mark.parametrize("name", CFG_PP)
@pytest.mark.parametrize("count", [2, 3, 5])
def test_without_a_difference_between_the_branches_it_is_the_sampler_it_is_made_of(mixture, start, run, white, name, count):
    x = start(9.0)
    plain = run(name.removesuffix("_cfg_pp"), mixture, x, LEVELS[:count], white(x))
    assert torch.allclose(run(name, mixture, x, LEVELS[:count], white(x)), plain)


@pytest.mark.parametrize("name", CFG_PP)
def test_the_guided_estimate_is_where_the_run_ends(gaussian, mixture, start, run, white, name):
    x = start(9.0)
    before = run(name, gaussian, x, LEVELS[:-1], white(x), mixture)
    assert torch.allclose(run(name, gaussian, x, LEVELS, white(x), mixture), gaussian(before, 0.5))


def test_a_step_keeps_the_noise_that_the_negative_branch_sees(gaussian, mixture, start, run):
    x = start(9.0)
    expected = gaussian(x, 9.0) + 5.0 * (x - mixture(x, 9.0)) / 9.0
    for name in ("euler_cfg_pp", "dpmpp_2m_cfg_pp", "res_multistep_cfg_pp", "gradient_estimation_cfg_pp"):
        assert torch.allclose(run(name, gaussian, x, [9.0, 5.0], negative=mixture), expected), name


def test_2s_steps_along_the_negative_branch_and_adds_the_guidance_of_its_start(gaussian, mixture, start, run):
    x = start(9.0)
    u = mixture(x, 9.0)
    middle = math.sqrt(9.0 * 4.0)
    u_2 = mixture(u + (x - u) * middle / 9.0, middle)
    expected = u_2 + (x - u_2) * 4.0 / 9.0 + gaussian(x, 9.0) - u
    assert torch.allclose(run("dpmpp_2s_ancestral_cfg_pp", gaussian, x, [9.0, 4.0], negative=mixture, eta=0.0), expected)


def second_step(gaussian, mixture, x, y):
    """(D, U at 5, U at 9, e^-h, h / h_prev) of a step 5 -> 2 that came from 9."""
    shares = math.exp(-math.log(5 / 2)), math.log(5 / 2) / math.log(9 / 5)
    return gaussian(y, 5.0), mixture(y, 5.0), mixture(x, 9.0), *shares


def test_2m_extrapolates_from_the_negative_estimate_before_to_the_guided_one(gaussian, mixture, start, run):
    x = start(9.0)
    y = run("dpmpp_2m_cfg_pp", gaussian, x, [9.0, 5.0], negative=mixture)
    d, u, u_prev, keep, ratio = second_step(gaussian, mixture, x, y)
    expected = d + keep * (y - u) + (1 - keep) / 2 * ratio * (d - u_prev)
    assert torch.allclose(run("dpmpp_2m_cfg_pp", gaussian, x, [9.0, 5.0, 2.0], negative=mixture), expected)


def test_res_integrates_the_line_of_the_negative_estimates_from_a_shifted_state(gaussian, mixture, start, run):
    x = start(9.0)
    y = run("res_multistep_cfg_pp", gaussian, x, [9.0, 5.0], negative=mixture)
    d, u, u_prev, keep, ratio = second_step(gaussian, mixture, x, y)
    line = (1 - (1 - keep) / math.log(5 / 2)) * ratio * (u - u_prev)
    expected = keep * (y + d - u) + (1 - keep) * u + line
    assert torch.allclose(run("res_multistep_cfg_pp", gaussian, x, [9.0, 5.0, 2.0], negative=mixture), expected)


def test_gradient_estimation_extrapolates_the_negative_slope(gaussian, mixture, start, run):
    x = start(9.0)
    y = run("gradient_estimation_cfg_pp", gaussian, x, [9.0, 5.0], negative=mixture)
    d_1, d_2 = (x - mixture(x, 9.0)) / 9.0, (y - mixture(y, 5.0)) / 5.0
    expected = gaussian(y, 5.0) + 2.0 * d_2 - 3.0 * (d_2 - d_1)
    assert torch.allclose(run("gradient_estimation_cfg_pp", gaussian, x, [9.0, 5.0, 2.0], negative=mixture), expected)


def test_ancestral_noise_has_the_strength_that_sigma_down_leaves(gaussian, run):
    x = torch.full((20_000,), 3.0)
    rng = torch.Generator().manual_seed(0)
    out = run("euler_ancestral_cfg_pp", gaussian, x, [4.0, 2.0], lambda a, b: torch.randn(20_000, generator=rng))
    assert out.std().item() == pytest.approx(math.sqrt(2.0**2 - (2.0**2 / 4.0) ** 2), rel=0.02)
