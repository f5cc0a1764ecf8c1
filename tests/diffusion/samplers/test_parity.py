"""The same numbers as diffusers' schedulers on the same levels, where the two mean the same method."""

import math

import pytest
import torch

from diffusion.samplers import Bare, integrate, make_stepper
from diffusion.schedule import Schedule
from diffusion.spacing import sigmas_for

diffusers = pytest.importorskip("diffusers")

pytestmark = [  # raised inside diffusers' schedulers, which hand tensors to numpy
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning"),
]

TRAINED = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
N = 20


def noise_list(shape, n):
    rng = torch.Generator().manual_seed(21)
    return [torch.randn(shape, generator=rng, dtype=torch.float64) for _ in range(n)]


def ours(table, name, denoise, x, sigmas, noises=(), **options):
    source = iter(noises)
    schedule = Schedule(table, sigmas)
    return integrate(make_stepper(name, **options), Bare(denoise), x, schedule, lambda a, b: next(source))


def theirs_ve(scheduler, denoise, x, monkeypatch=None, **step_options):
    """Schedulers that keep X: at each call, eps at the level that the scheduler believes it is at."""
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, t)
        sigma = float(scheduler.sigmas[scheduler.step_index])
        if hasattr(scheduler, "sigmas_interpol") and not scheduler.state_in_first_order:
            sigma = float(scheduler.sigmas_interpol[scheduler.step_index])
        assert torch.allclose(scaled, x / math.sqrt(1 + sigma**2), rtol=1e-5)
        x = scheduler.step((x - denoise(x, sigma)) / sigma, t, x, **step_options).prev_sample
    return x


def theirs_vp(scheduler, denoise, x, noises=(), argument="variance_noise"):
    """Schedulers that keep x_t = X / sqrt(1 + sigma^2)."""
    sigmas = [float(s) for s in scheduler.sigmas]
    x = x / math.sqrt(1 + sigmas[0] ** 2)
    for i, t in enumerate(scheduler.timesteps):
        x_ve = x * math.sqrt(1 + sigmas[i] ** 2)
        eps = (x_ve - denoise(x_ve, sigmas[i])) / sigmas[i]
        extra = {argument: noises[i]} if noises else {}
        x = scheduler.step(eps, t, x, **extra).prev_sample
    return x * math.sqrt(1 + sigmas[-1] ** 2)


def close(a, b, atol=1e-5):
    assert (a - b).abs().max().item() < atol


SPACINGS = [{}, {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}]


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(
    ("name", "scheduler"),
    [("euler", "EulerDiscreteScheduler"), ("heun", "HeunDiscreteScheduler"), ("dpm_2", "KDPM2DiscreteScheduler")],
)
def test_euler_heun_and_dpm_2(table, mixture, start, name, scheduler, spacing):
    scheduler = getattr(diffusers, scheduler)(**TRAINED, timestep_spacing="linspace", **spacing)
    scheduler.set_timesteps(N)
    sigmas = torch.unique_consecutive(scheduler.sigmas)
    assert len(sigmas) == N + 1
    x = start(float(sigmas[0]))
    close(ours(table, name, mixture, x, sigmas), theirs_ve(scheduler, mixture, x))


@pytest.mark.parametrize("spacing", SPACINGS)
def test_lms(table, mixture, start, spacing):
    """Compared before the step to 0, in which the denoised state is returned here and extrapolated there."""
    scheduler = diffusers.LMSDiscreteScheduler(**TRAINED, timestep_spacing="linspace", **spacing)
    scheduler.set_timesteps(N)
    sigmas = scheduler.sigmas[:-1]
    scheduler.timesteps = scheduler.timesteps[:-1]
    x = start(float(sigmas[0]))
    close(ours(table, "lms", mixture, x, sigmas), theirs_ve(scheduler, mixture, x))


def test_euler_ancestral(table, mixture, start, monkeypatch):
    scheduler = diffusers.EulerAncestralDiscreteScheduler(**TRAINED, timestep_spacing="linspace")
    scheduler.set_timesteps(N)
    x = start(float(scheduler.sigmas[0]))
    noises = noise_list(x.shape, N)
    source = iter(noises)
    module = "diffusers.schedulers.scheduling_euler_ancestral_discrete.randn_tensor"
    monkeypatch.setattr(module, lambda *args, **kwargs: next(source))
    close(ours(table, "euler_ancestral", mixture, x, scheduler.sigmas, noises), theirs_ve(scheduler, mixture, x))


@pytest.mark.parametrize("spacing", [*SPACINGS, {"timestep_spacing": "trailing"}])
def test_dpmpp_2m(table, mixture, start, spacing):
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **TRAINED,
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        final_sigmas_type="zero",
        **spacing,
    )
    scheduler.set_timesteps(N)
    x = start(float(scheduler.sigmas[0]))
    close(ours(table, "dpmpp_2m", mixture, x, scheduler.sigmas), theirs_vp(scheduler, mixture, x))


@pytest.mark.parametrize("solver_type", ["midpoint", "heun"])
def test_dpmpp_2m_sde(table, mixture, start, solver_type):
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **TRAINED, algorithm_type="sde-dpmsolver++", solver_type=solver_type, use_karras_sigmas=True,
        final_sigmas_type="zero", euler_at_final=True,
    )  # fmt: skip
    scheduler.set_timesteps(N)
    x = start(float(scheduler.sigmas[0]))
    noises = noise_list(x.shape, N)
    got = ours(table, "dpmpp_2m_sde", mixture, x, scheduler.sigmas, noises, solver_type=solver_type)
    close(got, theirs_vp(scheduler, mixture, x, noises))


@pytest.mark.parametrize(("spacing", "offset"), [("leading", 1), ("trailing", 0)])
def test_ddim(table, mixture, start, spacing, offset):
    scheduler = diffusers.DDIMScheduler(**TRAINED, clip_sample=False, set_alpha_to_one=True, timestep_spacing=spacing, steps_offset=offset)
    scheduler.set_timesteps(N)
    schedule = Schedule.at(table, scheduler.timesteps.tolist())
    name = {"leading": "ddim_uniform", "trailing": "simple"}[spacing]
    assert torch.allclose(torch.tensor(schedule.sigmas), sigmas_for(table, name, N))
    x_ve = start(schedule.sigmas[0])
    x = x_ve * schedule[0].alpha_t
    for t, s in zip(scheduler.timesteps, schedule, strict=True):
        y = x / s.alpha_t
        x = scheduler.step((y - mixture(y, s.sigma)) / s.sigma, t, x, eta=0.0).prev_sample
    close(ours(table, "ddim", mixture, x_ve, schedule.sigmas), x)


def test_ddim_with_eta_1_is_ddpm(table, mixture, start):
    scheduler = diffusers.DDIMScheduler(**TRAINED, clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(N)
    schedule = Schedule.at(table, scheduler.timesteps.tolist())
    x_ve = start(schedule.sigmas[0])
    noises = noise_list(x_ve.shape, N)
    x = x_ve * schedule[0].alpha_t
    for t, s, z in zip(scheduler.timesteps, schedule, noises, strict=True):
        y = x / s.alpha_t
        x = scheduler.step((y - mixture(y, s.sigma)) / s.sigma, t, x, eta=1.0, variance_noise=z).prev_sample
    for name in ("ddpm", "euler_ancestral"):
        close(ours(table, name, mixture, x_ve, schedule.sigmas, noises), x)


def test_ddim_inversion(table, mixture):
    """Both ask the network at the level they go to."""
    scheduler = diffusers.DDIMInverseScheduler(
        **TRAINED, clip_sample=False, set_alpha_to_one=True, timestep_spacing="leading", steps_offset=1
    )
    scheduler.set_timesteps(N)
    schedule = Schedule.at(table, scheduler.timesteps.tolist()[::-1]).reversed()
    x_ve = torch.linspace(-1.4, 1.0, 41, dtype=torch.float64)
    x = x_ve
    for t, s in zip(scheduler.timesteps, schedule, strict=True):
        assert s.t == int(t)
        y = x * math.sqrt(1 + s.sigma_net**2)
        x = scheduler.step((y - mixture(y, s.sigma_net)) / s.sigma_net, t, x).prev_sample
    close(ours(table, "ddim", mixture, x_ve, schedule.sigmas) * schedule[-1].alpha_u, x)


@pytest.mark.parametrize(("name", "variant"), [("uni_pc", "bh1"), ("uni_pc_bh2", "bh2")])
def test_uni_pc(table, mixture, start, name, variant):
    scheduler = diffusers.UniPCMultistepScheduler(
        **TRAINED, solver_order=3, solver_type=variant, use_karras_sigmas=True, final_sigmas_type="sigma_min"
    )
    scheduler.set_timesteps(N)
    sigmas = scheduler.sigmas.tolist()
    scheduler.sigmas[-1] = sigmas[-1] = 0.01  # the list's own last level repeats the one before
    x = start(sigmas[0]).reshape(2, 4, 8)  # diffusers wants channels
    close(ours(table, name, mixture, x, sigmas), theirs_vp(scheduler, mixture, x))


def test_the_tables_agree(table):
    scheduler = diffusers.DDIMScheduler(**TRAINED)
    assert torch.allclose(scheduler.alphas_cumprod.double(), table.alphas_cumprod, rtol=1e-4)
    scheduler = diffusers.DDIMScheduler(**TRAINED, rescale_betas_zero_snr=True)
    rescaled = table.zero_terminal_snr().alphas_cumprod
    assert torch.allclose(scheduler.alphas_cumprod.double()[:-1], rescaled[:-1], rtol=2e-2)


@pytest.mark.parametrize(
    ("name", "options", "tolerance"),
    [
        ("karras", {"use_karras_sigmas": True}, 1e-4),
        ("exponential", {"use_exponential_sigmas": True}, 1e-4),
        ("normal", {}, 1e-4),
    ],
)
def test_the_spacings_agree(table, name, options, tolerance):
    scheduler = diffusers.EulerDiscreteScheduler(**TRAINED, timestep_spacing="linspace", **options)
    scheduler.set_timesteps(N)
    assert torch.allclose(sigmas_for(table, name, N), scheduler.sigmas.float(), rtol=tolerance)
