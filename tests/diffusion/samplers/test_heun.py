import pytest
import torch


def test_heun_averages_the_slopes_at_both_ends(gaussian, run):
    x = torch.tensor([2.0, -1.0], dtype=torch.float64)
    d = (x - gaussian(x, 4.0)) / 4.0
    y = x - 2.0 * d
    d_2 = (y - gaussian(y, 2.0)) / 2.0
    assert torch.allclose(run("heun", gaussian, x, [4.0, 2.0]), x - (d + d_2))


@pytest.mark.parametrize("name", ["heun", "heunpp2", "dpm_2", "exp_heun_2_x0", "dpmpp_2s_ancestral", "dpmpp_sde"])
def test_a_step_to_zero_is_the_denoiser(gaussian, run, name):
    x = torch.tensor([2.0, -1.0], dtype=torch.float64)
    assert torch.allclose(run(name, gaussian, x, [0.3, 0.0]), gaussian(x, 0.3))


def test_dpm_2_asks_at_the_geometric_mean(gaussian, run):
    levels = []

    def denoise(x, sigma):
        levels.append(sigma)
        return gaussian(x, sigma)

    run("dpm_2", denoise, torch.zeros(1), [9.0, 4.0])
    assert levels == pytest.approx([9.0, 6.0])


def test_heunpp2_looks_two_levels_ahead_and_never_at_the_last(gaussian, run):
    levels = []

    def denoise(x, sigma):
        levels.append(sigma)
        return gaussian(x, sigma)

    run("heunpp2", denoise, torch.zeros(1), [8.0, 4.0, 2.0, 1.0, 0.0])
    assert levels == [8.0, 4.0, 2.0, 4.0, 2.0, 1.0, 2.0, 1.0, 1.0]


def test_heunpp2_weighs_slopes_by_level(gaussian, run):
    x = torch.tensor([5.0], dtype=torch.float64)

    def slope(x, sigma):
        return (x - gaussian(x, sigma)) / sigma

    d_1 = slope(x, 8.0)
    y = x - 4 * d_1
    d_2 = slope(y, 4.0)
    d_3 = slope(y - 2 * d_2, 2.0)
    w_2, w_3 = 4 / 24, 2 / 24
    step = x - 4 * ((1 - w_2 - w_3) * d_1 + w_2 * d_2 + w_3 * d_3)
    d_1 = slope(step, 4.0)  # one level ahead is left
    w_2 = 2 / 16
    step = step - 2 * ((1 - w_2) * d_1 + w_2 * slope(step - 2 * d_1, 2.0))
    d_1 = slope(step, 2.0)
    assert torch.allclose(run("heunpp2", gaussian, x, [8.0, 4.0, 2.0, 1.0]), step - d_1)


@pytest.mark.parametrize("name", ["dpm_2_ancestral", "dpmpp_2s_ancestral"])
def test_ancestral_forms_reach_the_data(table, gaussian, run, name):
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(20000, generator=rng, dtype=torch.float64) * table.sigma_max + gaussian.mu
    sigmas = torch.linspace(table.sigma_max ** (1 / 7), 0.03 ** (1 / 7), 50, dtype=torch.float64) ** 7
    out = run(name, gaussian, x, [*sigmas.tolist(), 0.0], lambda a, b: torch.randn(20000, generator=rng, dtype=torch.float64))
    assert out.mean().item() == pytest.approx(gaussian.mu, abs=0.02)
    assert out.std().item() == pytest.approx(gaussian.s, rel=0.04)
