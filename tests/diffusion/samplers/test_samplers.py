"""Laws that hold for every sampler in the catalogue, and how fast each converges."""

import pytest
import torch

from diffusion.samplers import SAMPLERS, Bare, integrate, make_stepper, noise_source
from diffusion.schedule import Schedule
from diffusion.spacing import sigmas_for

REQUIRED = [
    "euler",
    "euler_ancestral",
    "heun",
    "dpm_2",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_sde",
    "lms",
    "ddim",
    "ddpm",
    "lcm",
    "uni_pc",
    "dpm_2_ancestral",
    "dpmpp_2s_ancestral",
    "dpmpp_3m_sde",
    "uni_pc_bh2",
    "heunpp2",
    "ipndm",
    "deis",
    "res_multistep",
    "gradient_estimation",
]
ONE_CALL = [
    "euler",
    "euler_ancestral",
    "ddim",
    "ddpm",
    "lcm",
    "lms",
    "ipndm",
    "deis",
    "gradient_estimation",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_3m_sde",
    "res_multistep",
    "uni_pc",
    "uni_pc_bh2",
]


def test_the_catalogue_has_the_required_names():
    assert set(REQUIRED) <= set(SAMPLERS)


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_report_a_step_and_a_result_near_the_data(table, gaussian, name):
    x = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(3)) * table.sigma_max
    schedule = Schedule(table, sigmas_for(table, "karras", 12, sampler=name))
    seen = []
    out = integrate(make_stepper(name), Bare(gaussian), x, schedule, noise_source(name, 1, x), lambda i, n, x0: seen.append((i, n)))
    assert seen == [(i, 12) for i in range(1, 13)]
    assert out.shape == x.shape
    assert out.dtype == x.dtype
    assert (out - gaussian.mu).abs().max() < 5 * gaussian.s


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_same_seed_gives_the_same_result(table, mixture, name):
    x = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(3)) * table.sigma_max
    schedule = Schedule(table, sigmas_for(table, "karras", 6))

    def result(seed):
        return integrate(make_stepper(name), Bare(mixture), x, schedule, noise_source(name, seed, x))

    assert torch.equal(result(1), result(1))
    assert torch.equal(result(1), result(2)) == (SAMPLERS[name].noise == "none")


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_short_runs(table, gaussian, name, steps):
    x = torch.ones(1, 1, 4, 4) * 14.6
    schedule = Schedule(table, sigmas_for(table, "normal", steps, sampler=name))
    out = integrate(make_stepper(name), Bare(gaussian), x, schedule, noise_source(name, 0, x))
    assert bool(out.isfinite().all())
    assert out.abs().max() < 14.6


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_initial_state_is_not_written_to(table, gaussian, name):
    x = torch.ones(1, 1, 4, 4)
    version = x._version
    schedule = Schedule(table, [1.0, 0.5, 0.2, 0.0])
    integrate(make_stepper(name), Bare(gaussian), x, schedule, noise_source(name, 0, x))
    assert x._version == version


@pytest.mark.parametrize("name", ONE_CALL)
def test_multistep_and_first_order_solvers_ask_once_a_step(table, gaussian, start, run, name):
    calls = []

    def counted(x, sigma):
        calls.append(sigma)
        return gaussian(x, sigma)

    sigmas = sigmas_for(table, "karras", 9)
    run(name, counted, start(14.6), sigmas, noise=lambda a, b: torch.zeros(64, dtype=torch.float64))
    assert calls == sigmas[:-1].tolist()


@pytest.mark.parametrize(
    ("name", "order", "options"),
    [
        ("euler", 1, {}),
        ("ddim", 1, {}),
        ("euler_ancestral", 1, {"eta": 0.0}),
        ("heunpp2", 1, {}),
        ("gradient_estimation", 1, {}),
        ("heun", 2, {}),
        ("dpm_2", 2, {}),
        ("dpm_2_ancestral", 2, {"eta": 0.0}),
        ("exp_heun_2_x0", 2, {}),
        ("dpmpp_2s_ancestral", 2, {"eta": 0.0}),
        ("dpmpp_sde", 2, {"eta": 0.0}),
        ("dpmpp_2m", 2, {}),
        ("dpmpp_2m_sde_heun", 2, {"eta": 0.0}),
        ("dpmpp_3m_sde", 2, {"eta": 0.0}),
        ("res_multistep", 2, {}),
        ("uni_pc", 2, {}),
        ("uni_pc_bh2", 2, {}),
        ("ipndm", 2, {}),
        ("lms", 3, {}),
        ("deis", 3, {}),
    ],
)
def test_order_of_convergence(mixture, start, run, name, order, options):
    """Halving every step cuts the error by 1.8 and more at order 1, by 3.2 at order 2, by 6 at order 3."""

    def levels(n):
        return torch.linspace(10 ** (1 / 3), 0.1 ** (1 / 3), n + 1, dtype=torch.float64) ** 3

    x = start(10.0)
    truth = run("lms", mixture, x, levels(1500))
    errors = [(run(name, mixture, x, levels(n), **options) - truth).abs().mean().item() for n in (64, 128)]
    assert errors[0] / errors[1] > {1: 1.8, 2: 3.2, 3: 6.0}[order]
    assert errors[1] < 0.01


def test_unknown_names_and_options():
    with pytest.raises(ValueError, match=r"sampler.*euler.*'eulr'"):
        make_stepper("eulr")
    with pytest.raises(ValueError, match=r"eta, s_noise is wanted, got etta"):
        make_stepper("euler_ancestral", etta=1.0)
    with pytest.raises(ValueError, match="no options is wanted, got order"):
        make_stepper("euler", order=2)
    with pytest.raises(ValueError, match="solver_type"):
        make_stepper("dpmpp_2m_sde", solver_type="euler")
    with pytest.raises(ValueError, match="order"):
        make_stepper("deis", order=9)


def test_options_are_listed_with_their_defaults():
    assert SAMPLERS["dpmpp_2m_sde_heun"].options == {"eta": 1.0, "s_noise": 1.0, "solver_type": "heun"}
    assert SAMPLERS["lms"].options == {"order": 4}
    assert SAMPLERS["euler"].options == {}
