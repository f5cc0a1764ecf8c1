"""Laws that hold for every sampler in the catalogue, and how fast each converges."""

import pytest
import torch

from diffusion.samplers import SAMPLERS, Bare, integrate, make_stepper, noise_source, silent
from diffusion.schedule import Schedule
from diffusion.spacing import sigmas_for

# ComfyUI's combo box, in its order
NAMES = [
    "euler",
    "euler_cfg_pp",
    "euler_ancestral",
    "euler_ancestral_cfg_pp",
    "heun",
    "heunpp2",
    "exp_heun_2_x0",
    "exp_heun_2_x0_sde",
    "dpm_2",
    "dpm_2_ancestral",
    "lms",
    "dpm_fast",
    "dpm_adaptive",
    "dpmpp_2s_ancestral",
    "dpmpp_2s_ancestral_cfg_pp",
    "dpmpp_sde",
    "dpmpp_sde_gpu",
    "dpmpp_2m",
    "dpmpp_2m_cfg_pp",
    "dpmpp_2m_sde",
    "dpmpp_2m_sde_gpu",
    "dpmpp_2m_sde_heun",
    "dpmpp_2m_sde_heun_gpu",
    "dpmpp_3m_sde",
    "dpmpp_3m_sde_gpu",
    "ddpm",
    "lcm",
    "ipndm",
    "ipndm_v",
    "deis",
    "res_multistep",
    "res_multistep_cfg_pp",
    "res_multistep_ancestral",
    "res_multistep_ancestral_cfg_pp",
    "gradient_estimation",
    "gradient_estimation_cfg_pp",
    "er_sde",
    "seeds_2",
    "seeds_3",
    "sa_solver",
    "sa_solver_pece",
    "ddim",
    "uni_pc",
    "uni_pc_bh2",
]
OWN_LEVELS = {"dpm_fast", "dpm_adaptive"}  # these choose where to step
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
    "ipndm_v",
    "er_sde",
    "sa_solver",
    "euler_cfg_pp",
    "euler_ancestral_cfg_pp",
    "dpmpp_2m_cfg_pp",
    "res_multistep_cfg_pp",
    "res_multistep_ancestral_cfg_pp",
    "gradient_estimation_cfg_pp",
]


def test_the_catalogue_is_that_of_saved_graphs():
    assert list(SAMPLERS) == NAMES


def sampled(name, denoise, x, schedule, seed=1, on_step=silent):
    net = Bare(denoise, denoise)
    return integrate(make_stepper(name), net, x, schedule, noise_source(name, seed, x, schedule.sigmas), on_step)


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_report_a_step_and_a_result_near_the_data(table, gaussian, name):
    x = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(3)) * table.sigma_max
    schedule = Schedule(table, sigmas_for(table, "karras", 12, sampler=name))
    seen = []
    out = sampled(name, gaussian, x, schedule, on_step=lambda i, n, x0: seen.append((i, n)))
    assert seen == [(i, 12) for i in range(1, 13)]
    assert out.shape == x.shape
    assert out.dtype == x.dtype
    assert (out - gaussian.mu).abs().max() < 5 * gaussian.s


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_same_seed_gives_the_same_result(table, mixture, name):
    x = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(3)) * table.sigma_max
    schedule = Schedule(table, sigmas_for(table, "karras", 6))

    assert torch.equal(sampled(name, mixture, x, schedule, 1), sampled(name, mixture, x, schedule, 1))
    draws_none = SAMPLERS[name].noise == "none" or SAMPLERS[name].options.get("eta") == 0
    assert torch.equal(sampled(name, mixture, x, schedule, 1), sampled(name, mixture, x, schedule, 2)) == draws_none


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_short_runs(table, gaussian, name, steps):
    if steps == 1 and name in OWN_LEVELS:
        steps = 2  # between one level and 0 they have nowhere to go
    x = torch.ones(1, 1, 4, 4) * 14.6
    schedule = Schedule(table, sigmas_for(table, "normal", steps, sampler=name))
    out = sampled(name, gaussian, x, schedule)
    assert bool(out.isfinite().all())
    assert out.abs().max() < 14.6


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_initial_state_is_not_written_to(table, gaussian, name):
    x = torch.ones(1, 1, 4, 4)
    version = x._version
    schedule = Schedule(table, [1.0, 0.5, 0.2, 0.0])
    sampled(name, gaussian, x, schedule)
    assert x._version == version


@pytest.mark.parametrize("name", ONE_CALL)
def test_multistep_and_first_order_solvers_ask_once_a_step(table, gaussian, start, run, name):
    calls = []

    def counted(x, sigma):
        calls.append(sigma)
        return gaussian(x, sigma)

    sigmas = sigmas_for(table, "karras", 9)
    run(name, counted, start(14.6), sigmas, noise=lambda a, b: torch.zeros(64, dtype=torch.float64), negative=gaussian)
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
        ("ipndm_v", 1, {}),
        ("euler_cfg_pp", 1, {}),
        ("gradient_estimation_cfg_pp", 1, {}),
        ("dpmpp_2s_ancestral_cfg_pp", 2, {"eta": 0.0}),
        ("dpmpp_2m_cfg_pp", 2, {}),
        ("res_multistep_cfg_pp", 2, {}),
        ("er_sde", 1, {"solver_type": "ODE", "max_stage": 1}),
        ("er_sde", 2, {"solver_type": "ODE", "max_stage": 2}),
        ("er_sde", 2, {"solver_type": "ODE"}),
        ("seeds_2", 2, {"eta": 0.0}),
        ("seeds_2", 2, {"eta": 0.0, "r": 0.7, "solver_type": "phi_2"}),
        ("seeds_3", 3, {"eta": 0.0}),
        ("exp_heun_2_x0_sde", 2, {"eta": 0.0}),
        ("sa_solver", 1, {"eta": 0.0, "predictor_order": 1, "corrector_order": 0}),
        ("sa_solver", 2, {"eta": 0.0, "predictor_order": 2, "corrector_order": 0}),
        ("sa_solver", 2, {"eta": 0.0, "predictor_order": 2, "corrector_order": 2, "simple_order_2": True}),
        ("sa_solver", 3, {"eta": 0.0}),
        ("sa_solver_pece", 3, {"eta": 0.0}),
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


@pytest.mark.parametrize(
    "name",
    [
        "er_sde",
        "seeds_2",
        "seeds_3",
        "exp_heun_2_x0_sde",
        "sa_solver",
        "sa_solver_pece",
        "dpmpp_2s_ancestral_cfg_pp",
        "res_multistep_ancestral_cfg_pp",
    ],
)
def test_solvers_of_the_sde_reach_the_data(table, gaussian, run, white, name):
    """Mean and spread of 20,000 samples of N(0.4, 0.5^2) at 50 steps."""
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(0)) * table.sigma_max + gaussian.mu
    out = run(name, gaussian, x, sigmas_for(table, "karras", 50), white(x))
    assert out.mean().item() == pytest.approx(gaussian.mu, abs=0.02)
    assert out.std().item() == pytest.approx(gaussian.s, rel=0.04)


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
