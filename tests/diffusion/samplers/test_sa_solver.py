import math

import pytest
import torch

from diffusion.samplers.sa_solver import simple_weights, weights


@pytest.mark.parametrize("tau", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("past", [[-1.2], [-1.2, -2.0], [-0.3, -1.2, -2.0, -2.4], [-1.2, -1.7, -2.1, -2.6, -3.0, -3.2]])
def test_weights_integrate_polynomials_exactly(past, tau):
    """Sum b_i lambda_i^p is (1 + tau^2) times the integral of e^(-(1 + tau^2)(lambda_next - t)) t^p, for p below the order."""
    lam, lam_next, rate = -1.2, -0.3, 1 + tau**2
    b = weights(past, lam, lam_next, tau, torch.float64)
    t = torch.linspace(lam, lam_next, 100_001, dtype=torch.float64)
    for p in range(len(past)):
        wanted = torch.trapezoid(rate * torch.exp(-rate * (lam_next - t)) * t**p, t).item()
        assert sum(b_i * lam_i**p for b_i, lam_i in zip(b, past, strict=True)) == pytest.approx(wanted, abs=1e-8)


@pytest.mark.parametrize("past", [[-1.2, -1.25], [-1.15, -1.2]])
def test_the_simple_weights_are_those_of_order_two_up_to_a_term_of_higher_order(past):
    exact, simple = weights(past, -1.2, -1.15, 0.8, torch.float64), simple_weights(past, -1.2, -1.15, 0.8)
    assert sum(simple) == pytest.approx(sum(exact))
    assert simple == pytest.approx(exact, abs=2 * 0.05**2)
    assert simple != pytest.approx(exact, abs=1e-5)


def test_identities_of_the_ode(mixture, start, run):
    x, sigmas = start(9.0), [9.0, 5.0, 3.0, 2.0, 0.5, 0.0]
    plain = {"eta": 0.0, "corrector_order": 0}
    assert torch.allclose(run("sa_solver", mixture, x, sigmas, predictor_order=1, **plain), run("euler", mixture, x, sigmas))
    second = run("sa_solver", mixture, x, sigmas[:-2], predictor_order=2, **plain)
    assert torch.allclose(second, run("res_multistep", mixture, x, sigmas[:-2]))


def test_the_stochastic_predictor_of_order_one_is_sde_dpmpp(mixture, start, run, white):
    x, sigmas = start(9.0), [9.0, 5.0]
    options = {"sde_start": 20.0, "sde_end": 0.0}
    got = run("sa_solver", mixture, x, sigmas, white(x), **options)
    assert torch.allclose(got, run("dpmpp_2m_sde", mixture, x, sigmas, white(x)))


def test_noise_is_added_on_the_way_to_levels_of_the_range_only(table, gaussian, run):
    sigmas = [14.6, 8.0, 5.0, 2.0, 0.6, 0.3, 0.0]
    for options, levels in (({}, [2.0, 0.6, 5.0]), ({"sde_start": 9.0, "sde_end": 1.0}, [8.0, 5.0, 2.0]), ({"eta": 0.0}, [])):
        asked = []
        run("sa_solver", gaussian, torch.ones(2), sigmas, lambda a, b, asked=asked: asked.append(b) or torch.zeros(2), **options)
        assert sorted(asked) == sorted(levels)
    assert table.percent_to_sigma(0.8) < 0.6 < 5.0 < table.percent_to_sigma(0.2)


@pytest.mark.parametrize(("name", "calls"), [("sa_solver", 5), ("sa_solver_pece", 9)])
def test_how_often_the_network_is_asked(gaussian, run, white, name, calls):
    asked = []

    def counted(x, sigma):
        asked.append(sigma)
        return gaussian(x, sigma)

    x = torch.ones(2)
    run(name, counted, x, [9.0, 5.0, 3.0, 2.0, 0.5, 0.0], white(x))
    assert len(asked) == calls
    assert sorted(set(asked), reverse=True) == [9.0, 5.0, 3.0, 2.0, 0.5]


def test_the_corrector_takes_the_step_again_with_the_estimate_at_its_end(mixture, start, run):
    x = start(9.0)
    lam = [-math.log(level) for level in (9.0, 5.0, 3.0)]
    d_0 = mixture(x, 9.0)
    predicted = d_0 + (x - d_0) * 5 / 9
    d_1 = mixture(predicted, 5.0)
    b_1, b_0 = weights([lam[1], lam[0]], lam[0], lam[1], 0.0)
    corrected = x * 5 / 9 + b_1 * d_1 + b_0 * d_0
    b_1, b_0 = weights([lam[1], lam[0]], lam[1], lam[2], 0.0)
    expected = corrected * 3 / 5 + b_1 * d_1 + b_0 * d_0
    assert torch.allclose(run("sa_solver", mixture, x, [9.0, 5.0, 3.0], eta=0.0), expected)


def test_what_is_refused(run, gaussian):
    with pytest.raises(ValueError, match="predictor_order"):
        run("sa_solver", None, torch.zeros(1), [1.0, 0.5], predictor_order=0)
    with pytest.raises(ValueError, match="only goes down"):
        run("sa_solver", gaussian, torch.zeros(1), [1.0, 2.0], lambda a, b: torch.zeros(1))
