import pytest
import torch

from diffusion.samplers.adams import coefficients, unequal_steps, vp_coefficients, vp_time


def quadrature(past, sigma_next, warp, n=200_001):
    """The same integrals by the trapezoid rule."""
    tau = torch.linspace(past[0], sigma_next, n, dtype=torch.float64)
    at = torch.tensor([warp(t) for t in tau.tolist()], dtype=torch.float64)
    u = [warp(p) for p in past]
    out = []
    for j in range(len(past)):
        basis = torch.ones_like(at)
        for k in range(len(past)):
            if k != j:
                basis = basis * (at - u[k]) / (u[j] - u[k])
        out.append(torch.trapezoid(basis, tau).item())
    return out


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_lms_coefficients_are_the_integrals(order):
    past, sigma_next = [2.2, 3.1, 5.0, 9.4][:order], 1.5
    assert coefficients(past, sigma_next) == pytest.approx(quadrature(past, sigma_next, lambda s: s), abs=1e-6)


def test_lms_coefficients_of_equal_steps_are_adams_bashforth():
    assert coefficients([4.0, 5.0, 6.0, 7.0], 3.0) == pytest.approx([-55 / 24, 59 / 24, -37 / 24, 9 / 24])


# by the rule of the authors' program in float32, transcribed apart from ours
DEIS = {
    (0.2, 0.5, 0.12): [-0.0914056, 0.0114057],
    (2.2, 3.1, 5.0, 1.32): [-2.0477967, 1.5900303, -0.4222362],
    (11.0, 12.5, 14.6, 6.6): [-27.0109138, 34.6084824, -11.9975853],
    (14.4, 14.5, 14.6, 14.3): [-0.1925856, 0.1351757, -0.0425896],
}


@pytest.mark.parametrize("levels", DEIS)
def test_deis_coefficients_are_the_known_ones(levels):
    *past, sigma_next = levels
    assert vp_coefficients(past, sigma_next) == pytest.approx(DEIS[levels], rel=1e-5)


@pytest.mark.parametrize("past", [[0.2, 0.5], [2.2, 3.1, 5.0], [11.0, 12.5, 14.6]])
def test_deis_coefficients_are_the_integrals_in_vp_time_to_the_fineness_of_the_sums(past):
    sigma_next = past[0] * 0.6
    wanted = quadrature(past, sigma_next, warp, 20_001)
    assert vp_coefficients(past, sigma_next) == pytest.approx(wanted, abs=2e-4 * max(abs(w) for w in wanted))


def warp(sigma):
    return vp_time(torch.tensor(sigma, dtype=torch.float64)).item()


def test_vp_time_has_its_ends_where_they_belong():
    assert warp(0.002) == pytest.approx(1e-3, rel=2e-2)  # the process is known to float32, in which 1 + 0.002^2 has two digits
    assert warp(80.0) == pytest.approx(1.0)
    times = [warp(s) for s in (0.0, 0.001, 0.03, 1.0, 2.0, 14.6)]
    assert times == sorted(times)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_a_slope_that_is_a_polynomial_of_sigma_is_integrated_exactly(run, order):
    """Once enough slopes are known, lms of order k has no error on a slope of degree k - 1."""
    levels = [9.0, 7.5, 6.5, 4.0, 3.0, 2.5, 1.0]

    def slope(sigma):
        return sum((k + 1) * (0.3 * sigma) ** k for k in range(order))

    def denoise(x, sigma):
        return x - sigma * slope(sigma)

    start = order - 1  # the first steps are of lower order: compare from there on
    warm = run("lms", denoise, torch.zeros(1, dtype=torch.float64), levels[: start + 1], order=order)
    full = run("lms", denoise, torch.zeros(1, dtype=torch.float64), levels, order=order)
    exact = sum((0.3**k) * (levels[-1] ** (k + 1) - levels[start] ** (k + 1)) for k in range(order))
    assert (full - warm).item() == pytest.approx(exact)


def test_first_orders_are_euler(mixture, start, run):
    x, sigmas = start(9.0), [9.0, 5.0, 2.0, 0.5, 0.0]
    euler = run("euler", mixture, x, sigmas)
    for name in ("lms", "deis", "ipndm", "ipndm_v"):
        assert torch.allclose(run(name, mixture, x, sigmas, order=1), euler)
    assert torch.allclose(run("gradient_estimation", mixture, x, sigmas, gamma=1.0), euler)


def test_ipndm_is_lms_on_equal_steps(mixture, start, run):
    x, sigmas = start(9.0), torch.linspace(9, 1, 9, dtype=torch.float64)
    assert torch.allclose(run("ipndm", mixture, x, sigmas), run("lms", mixture, x, sigmas))


def test_ipndm_v_is_adams_bashforth_for_two_levels_and_for_three_of_equal_steps():
    assert unequal_steps([2.2, 3.1], 1.5) == pytest.approx(coefficients([2.2, 3.1], 1.5))
    assert unequal_steps([4.0, 5.0, 6.0], 3.0) == pytest.approx(coefficients([4.0, 5.0, 6.0], 3.0))


def test_ipndm_v_follows_a_constant_slope_where_steps_change_by_a_factor():
    past = [5.0 * 1.3**j for j in range(4)]
    for n in range(1, 5):
        assert sum(unequal_steps(past[:n], 5.0 / 1.3)) == pytest.approx(5.0 / 1.3 - 5.0)


def test_ipndm_v_by_its_own_weights():
    """h = 1 after steps of 2, 3 and 5: the differences of the slopes, and the weights of the published program."""
    w_2 = (1 - 1 / (3 * 3) * (1 * 3) / (2 * 5)) / 2
    w_3 = ((1 - 1 / 9) / 2 + (1 - 1 / 6) / (6 * 6)) * (1 * 3 * 6) / (2 * 5 * 10)
    q = 2 * 5 / (3 * 8)
    expected = [
        1 + 1 / 4 + w_2 + w_3,
        -1 / 4 - (1 + 2 / 3) * w_2 - (1 + 2 / 3 + q) * w_3,
        2 / 3 * w_2 + (2 / 3 + q * (1 + 3 / 5)) * w_3,
        -q * 2 / 3 * w_3,
    ]
    assert unequal_steps([19.0, 21.0, 24.0, 29.0], 18.0) == pytest.approx([-c for c in expected])


def test_gradient_estimation_extrapolates_the_change_of_slope(gaussian, run):
    x = torch.tensor([5.0], dtype=torch.float64)
    d_1 = (x - gaussian(x, 8.0)) / 8.0
    y = x - 3 * d_1
    d_2 = (y - gaussian(y, 5.0)) / 5.0
    expected = y - 2 * (d_2 + 1.5 * (d_2 - d_1))
    assert torch.allclose(run("gradient_estimation", gaussian, x, [8.0, 5.0, 3.0], gamma=2.5), expected)


@pytest.mark.parametrize("name", ["lms", "deis", "ipndm", "ipndm_v", "gradient_estimation"])
def test_a_step_to_zero_returns_the_denoised_state(mixture, start, run, name):
    x, sigmas = start(9.0), [9.0, 5.0, 2.0, 0.5]
    before = run(name, mixture, x, sigmas)
    assert torch.allclose(run(name, mixture, x, [*sigmas, 0.0]), mixture(before, 0.5))


@pytest.mark.parametrize("order", [0, 5, -1])
def test_orders_without_coefficients(run, order):
    with pytest.raises(ValueError, match="order"):
        run("ipndm", None, torch.zeros(1), [1.0, 0.5], order=order)
