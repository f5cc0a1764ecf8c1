import math

import pytest
import torch

from diffusion import spacing
from diffusion.schedule import Table
from diffusion.spacing import SCHEDULERS, advanced_range, flip, sigmas_for, split, split_denoise

# 10 steps over the Stable Diffusion table
GOLDEN = {
    "simple": "14.6146 8.3028 5.0878 3.3211 2.2765 1.6129 1.1606 .8299 .5693 .3417 0",
    "normal": "14.6146 7.8399 4.6092 2.9183 1.9502 1.3449 .9324 .6250 .3687 .0292 0",
    "sgm_uniform": "14.6146 8.3072 5.0924 3.3251 2.2797 1.6156 1.1629 .8319 .5712 .3437 0",
    "ddim_uniform": "8.3907 5.1344 3.3478 2.2929 1.6237 1.1682 .8357 .5741 .3462 .0413 0",
    "karras": "14.6146 9.1029 5.4784 3.1686 1.7494 .9141 .4469 .2014 .0819 .0292 0",
    "exponential": "14.6146 7.3249 3.6712 1.84 .9222 .4622 .2317 .1161 .0582 .0292 0",
    "beta": "14.6146 11.5428 7.3718 4.3728 2.6152 1.6183 1.0273 .6549 .3955 .1991 0",
    "kl_optimal": "14.6147 4.2324 2.3937 1.5971 1.133 .8152 .5729 .3725 .1953 .0292 0",
    "linear_quadratic": "14.6146 14.5416 14.4685 14.3954 14.3224 14.2493 13.6209 11.8817 9.0319 5.0713 0",
}


@pytest.fixture(scope="module")
def table() -> Table:
    return Table.scaled_linear()


def close(got: torch.Tensor, wanted: str) -> bool:
    values = torch.tensor([float(v) for v in wanted.split()])
    return got.shape == values.shape and torch.allclose(got, values, rtol=0, atol=1.1e-4)


def test_names_stand_in_the_order_of_the_combo_box():
    assert SCHEDULERS == (
        "simple", "sgm_uniform", "karras", "exponential", "ddim_uniform",
        "beta", "normal", "linear_quadratic", "kl_optimal",
    )  # fmt: skip


@pytest.mark.parametrize("name", SCHEDULERS)
def test_golden_values(table, name):
    assert close(sigmas_for(table, name, 10), GOLDEN[name])


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("steps", [1, 2, 7, 20, 30, 50])
def test_lists_fall_to_zero_with_one_level_a_step(table, name, steps):
    sigmas = sigmas_for(table, name, steps)
    assert sigmas.dtype == torch.float32
    assert sigmas[-1] == 0
    assert bool((sigmas.diff() < 0).all())
    if name != "ddim_uniform":
        assert len(sigmas) == steps + 1
        assert sigmas[0].item() == pytest.approx(table.sigma_max, rel=1e-5)


def test_ddim_uniform_may_be_longer(table):
    assert len(sigmas_for(table, "ddim_uniform", 30)) == 32  # 31 steps
    assert len(sigmas_for(table, "ddim_uniform", 30, 0.98)) == 31  # int(30 / 0.98) is 30, too, but the list is cut
    assert len(sigmas_for(table, "ddim_uniform", 7)) == 9


def test_beta_drops_repeated_indices(table):
    sigmas = sigmas_for(table, "beta", 600)
    assert len(sigmas) < 601
    assert len(sigmas.unique()) == len(sigmas)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("denoise", [0.9, 0.6, 0.3])
def test_denoise_runs_the_end_of_a_longer_list(table, name, denoise):
    sigmas = sigmas_for(table, name, 10, denoise)
    longer = sigmas_for(table, name, int(10 / denoise))
    assert len(sigmas) == 11
    assert torch.equal(sigmas, longer[-11:])


def test_denoise_golden_values(table):
    wanted = "1.0908 .7909 .5647 .3964 .2730 .1842 .1213 .0779 .0485 .0292 0"
    assert close(sigmas_for(table, "karras", 10, 0.5), wanted)


def test_denoise_at_its_ends(table):
    assert torch.equal(sigmas_for(table, "normal", 10, 0.99995), sigmas_for(table, "normal", 10))
    assert len(sigmas_for(table, "normal", 10, 0.0)) == 0
    assert len(sigmas_for(table, "normal", 10, -1.0)) == 0


@pytest.mark.parametrize("sampler", ["dpm_2", "dpm_2_ancestral", "uni_pc", "uni_pc_bh2"])
def test_some_samplers_lose_the_penultimate_level(table, sampler):
    wanted = "14.6146 8.3072 5.0924 3.3251 2.2797 1.6156 1.1629 .8319 .5712 .3437 0"
    assert close(sigmas_for(table, "normal", 10, sampler=sampler), wanted)
    # with denoise < 1 it is lost from the longer list, before the cut
    longer = sigmas_for(table, "normal", 21)
    assert torch.equal(sigmas_for(table, "normal", 10, 0.5, sampler=sampler), torch.cat([longer[:-2], longer[-1:]])[-11:])


def test_other_samplers_keep_it(table):
    assert torch.equal(sigmas_for(table, "normal", 10, sampler="euler"), sigmas_for(table, "normal", 10))


def test_bad_requests_are_named(table):
    with pytest.raises(ValueError, match=r"scheduler.*karras.*'karas'"):
        sigmas_for(table, "karas", 10)
    with pytest.raises(ValueError, match="steps"):
        sigmas_for(table, "karras", 0)


def test_polyexponential(table):
    args = (12, table.sigma_min, table.sigma_max)
    assert torch.allclose(spacing.polyexponential(*args, rho=1.0), spacing.exponential(*args), rtol=1e-5)
    bent = spacing.polyexponential(*args, rho=2.0)
    assert bool((bent[1:-2] < spacing.exponential(*args)[1:-2]).all())


def test_karras_is_even_in_a_root_of_sigma():
    root = spacing.karras(9, 0.1, 20.0, rho=5.0)[:-1] ** (1 / 5)
    assert torch.allclose(root.diff(), root.diff()[:1].expand(8), rtol=1e-4)


def test_laplace_has_no_trailing_zero_and_its_middle_at_mu():
    sigmas = spacing.laplace(9, 0.03, 14.6, mu=0.3, beta=0.5)
    assert len(sigmas) == 9
    assert sigmas[4].item() == pytest.approx(math.exp(0.3), rel=1e-4)
    assert sigmas[0].item() == pytest.approx(14.6)
    assert sigmas[-1].item() == pytest.approx(0.03)
    assert bool((sigmas.diff() <= 0).all())


def test_vp_inverts_to_even_times():
    sigmas = spacing.vp(6, 19.9, 0.1, 0.001)
    log_growth = torch.log1p(sigmas[:-1].double() ** 2)
    t = (-0.1 + torch.sqrt(0.1**2 + 2 * 19.9 * log_growth)) / 19.9
    assert torch.allclose(t, torch.linspace(1, 0.001, 6, dtype=torch.float64), atol=1e-5)
    assert sigmas[-1] == 0


def test_sd_turbo(table):
    assert close(spacing.sd_turbo(table, 4), "14.6146 8.3028 5.0878 3.3211 0")
    assert close(spacing.sd_turbo(table, 1), "14.6146 0")
    assert torch.equal(spacing.sd_turbo(table, 2, 0.8), spacing.sd_turbo(table, 4)[2:])


# -- cuts --


def test_leftover_noise_golden_values(table):
    wanted = "14.6146 10.7468 8.0815 6.2049 4.8557 3.8654 3.1238 2.5572 2.1157 1.7648 1.4806"
    assert close(advanced_range(sigmas_for(table, "normal", 20), 0, 10, leftover_noise=True), wanted)


def test_a_range_without_leftover_noise_ends_at_zero(table):
    full = sigmas_for(table, "normal", 20)
    cut = advanced_range(full, 4, 10, leftover_noise=False)
    assert cut[-1] == 0
    assert torch.equal(cut[:-1], full[4:10])
    assert full[10] > 1  # the full list is as it was


def test_two_ranges_with_leftover_noise_make_the_whole(table):
    full = sigmas_for(table, "karras", 12)
    first = advanced_range(full, 0, 5, leftover_noise=True)
    second = advanced_range(full, 5, 10000, leftover_noise=False)
    assert torch.equal(torch.cat([first[:-1], second]), full)


@pytest.mark.parametrize(("start", "end"), [(10, 10000), (12, 10000), (5, 5), (7, 5), (0, 0)])
def test_an_empty_range(table, start, end):
    assert len(advanced_range(sigmas_for(table, "normal", 10), start, end, leftover_noise=False)) == 0


def test_split_shares_one_level():
    high, low = split(torch.tensor([4.0, 3.0, 2.0, 0.0]), 1)
    assert high.tolist() == [4.0, 3.0]
    assert low.tolist() == [3.0, 2.0, 0.0]


@pytest.mark.parametrize(
    ("denoise", "high", "low"),
    [(1.0, [5], [5, 4, 3, 2, 0]), (0.5, [5, 4, 3], [3, 2, 0]), (0.0, [], [0]), (0.3, [5, 4, 3, 2], [2, 0])],
)
def test_split_by_denoise(denoise, high, low):
    got = split_denoise(torch.tensor([5.0, 4.0, 3.0, 2.0, 0.0]), denoise)
    assert [part.tolist() for part in got] == [high, low]


def test_flip():
    sigmas = torch.tensor([3.0, 1.0, 0.0])
    assert flip(sigmas).tolist() == pytest.approx([1e-4, 1.0, 3.0])
    assert flip(flip(torch.tensor([3.0, 1.0]))).tolist() == [3.0, 1.0]
    assert flip(torch.zeros(0)).tolist() == []
    assert sigmas.tolist() == [3.0, 1.0, 0.0]
