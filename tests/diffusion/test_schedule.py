import math

import pytest
import torch

from diffusion.schedule import Schedule, Table


@pytest.fixture(scope="module")
def table() -> Table:
    return Table.scaled_linear()


def test_ends_of_the_stable_diffusion_table(table):
    assert len(table) == 1000
    assert table.sigma_min == pytest.approx(0.02916716, abs=1e-8)
    assert table.sigma_max == pytest.approx(14.614641, abs=1e-6)


def test_sigma_is_the_noise_to_signal_ratio(table):
    ab = table.alphas_cumprod
    assert torch.allclose(table.sigmas.double() ** 2 * ab, 1 - ab, rtol=1e-6, atol=0)


def test_sigma_between_indices_is_log_linear(table):
    middle = table.sigma(499.5)
    assert middle == pytest.approx(math.sqrt(table.sigma(499) * table.sigma(500)), rel=1e-6)
    assert table.sigma(-5) == pytest.approx(table.sigma_min, rel=1e-6)
    assert table.sigma(5000) == pytest.approx(table.sigma_max, rel=1e-6)


def test_t_inverts_sigma_at_every_index(table):
    assert [table.t(s) for s in table.sigmas.tolist()] == list(range(1000))
    assert table.t(0.0) == 0
    assert table.t(1e9) == 999


def test_t_is_the_nearest_level_on_the_log_scale(table):
    low, high = table.sigmas[300].item(), table.sigmas[301].item()
    assert table.t(low * (high / low) ** 0.49) == 300
    assert table.t(low * (high / low) ** 0.51) == 301


@pytest.mark.parametrize(("percent", "sigma"), [(0.2, 5.0924), (0.5, 1.6156), (0.8, 0.5712), (1.0, 0.0), (1.5, 0.0)])
def test_percent_to_sigma(table, percent, sigma):
    assert table.percent_to_sigma(percent) == pytest.approx(sigma, abs=1e-4)


def test_percent_zero_is_beyond_every_level(table):
    assert table.percent_to_sigma(0) > 9e8
    assert table.percent_to_sigma(-1) > 9e8


def test_zero_terminal_snr(table):
    zsnr = table.zero_terminal_snr()
    assert zsnr.sigma_max == pytest.approx(4518.76, rel=1e-5)
    assert zsnr.sigma_min == pytest.approx(table.sigma_min, rel=1e-6)
    assert table.sigma_max < 15  # the first table is as it was


@pytest.mark.parametrize("alphas", [[0.9], [0.9, 0.95], [0.9, 0.9], [1.0, 0.5], [0.5, 0.0], [[0.9, 0.5], [0.4, 0.3]], [0.9, math.nan]])
def test_a_table_must_fall_within_0_and_1(alphas):
    with pytest.raises(ValueError, match="alphas_cumprod"):
        Table(torch.tensor(alphas))


@pytest.mark.parametrize("sigma", [-1.0, math.nan])
def test_t_of_no_level(table, sigma):
    with pytest.raises(ValueError, match="sigma"):
        table.t(sigma)


def test_a_step_gives_both_forms(table):
    s = Schedule(table, [3.0, 1.0])[0]
    assert (s.index, s.count, s.last, s.ascending) == (0, 1, True, False)
    assert s.sigma / 1 == pytest.approx(s.sigma_t / s.alpha_t)
    assert s.alpha_t**2 + s.sigma_t**2 == pytest.approx(1)
    assert s.alpha_u**2 + s.sigma_u**2 == pytest.approx(1)
    x0, eps = 0.7, -1.3
    x_t, x_u = s.alpha_t * x0 + s.sigma_t * eps, s.alpha_u * x0 + s.sigma_u * eps
    assert s.a * x_t + s.b * eps == pytest.approx(x_u)


def test_both_directions_ask_the_network_at_the_same_levels(table):
    down = Schedule(table, [8.0, 3.0, 1.0, 0.0])
    up = down.reversed()
    assert [s.t for s in down] == [s.t for s in up][::-1]
    assert [s.sigma_net for s in down] == [8.0, 3.0, 1.0]
    assert [s.sigma_net for s in up] == [1.0, 3.0, 8.0]
    assert all(s.ascending for s in up)
    assert up.reversed().sigmas == down.sigmas


def test_schedule_through_table_indices(table):
    schedule = Schedule.at(table, [801, 401, 1])
    assert [s.t for s in schedule] == [801, 401, 1]
    assert schedule.sigmas[-1] == 0.0
    with pytest.raises(ValueError, match=r"\[1000\]"):
        Schedule.at(table, [1000, 1])


def test_repeated_levels_are_no_steps(table):
    assert Schedule(table, [3.0, 3.0, 1.0, 0.0, 0.0]).sigmas == (3.0, 1.0, 0.0)


@pytest.mark.parametrize("sigmas", [[], [1.0], torch.zeros(0)])
def test_fewer_than_two_levels_are_no_steps(table, sigmas):
    assert list(Schedule(table, sigmas)) == []
    assert len(Schedule(table, sigmas)) == 0


@pytest.mark.parametrize("sigmas", [[1.0, -0.1], [math.inf, 1.0], [math.nan, 1.0]])
def test_levels_must_be_finite_and_not_negative(table, sigmas):
    with pytest.raises(ValueError, match="sigmas"):
        Schedule(table, sigmas)


def test_steps_by_number(table):
    schedule = Schedule(table, [3.0, 1.0, 0.0])
    assert schedule[-1].sigma == 1.0
    with pytest.raises(IndexError):
        schedule[2]
