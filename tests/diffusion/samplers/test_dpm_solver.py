import math

import pytest
import torch

from diffusion.samplers import Bare, integrate, make_stepper
from diffusion.samplers.dpm_solver import Stages, StepLength
from diffusion.schedule import Schedule


@pytest.fixture
def counted(mixture):
    calls = []

    def denoise(x, sigma):
        calls.append(sigma)
        return mixture(x, sigma)

    denoise.calls = calls
    return denoise


@pytest.mark.parametrize(("stage", "order"), [("first", 1), ("second", 2), ("third", 3)])
def test_a_step_has_a_local_error_of_its_order_and_one(mixture, start, run, stage, order):
    x, errors = start(4.0), []
    for length in (0.2, 0.1):
        end = 4.0 * math.exp(-length)
        truth = run("lms", mixture, x, torch.linspace(4.0, end, 400, dtype=torch.float64))
        errors.append((getattr(Stages(mixture, x, 4.0), stage)(end) - truth).abs().mean().item())
    assert errors[0] / errors[1] > 0.85 * 2 ** (order + 1)


def test_a_slope_that_is_constant_is_exact(run):
    """X - D = sigma: every order gives X moved by the levels' difference."""
    x = torch.tensor([1.0, -2.0], dtype=torch.float64)
    stages = Stages(lambda x, sigma: x - sigma, x, 5.0)
    for step in (stages.first, stages.second, stages.third):
        assert torch.allclose(step(1.5), x - 3.5)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 8, 20])
def test_fast_asks_as_often_as_there_are_steps(start, run, counted, n):
    sigmas = torch.linspace(9.0, 0.5, n + 1, dtype=torch.float64)
    run("dpm_fast", counted, start(9.0), sigmas)
    assert len(counted.calls) == n
    assert counted.calls == sorted(counted.calls, reverse=True)


@pytest.mark.parametrize("name", ["dpm_fast", "dpm_adaptive"])
def test_only_the_ends_of_the_schedule_count(mixture, start, run, name):
    x = start(9.0)
    out = run(name, mixture, x, [9.0, 4.0, 2.0, 1.0, 0.5])
    assert torch.allclose(run(name, mixture, x, [9.0, 8.0, 7.0, 6.0, 0.5]), out)
    assert torch.allclose(run(name, mixture, x, [9.0, 8.0, 7.0, 0.5, 0.0]), out)  # a level of 0 is left out


def test_fast_of_three_is_a_step_of_order_two_and_one_of_order_one(mixture, start, run):
    x, middle = start(9.0), 3.0
    second = Stages(mixture, x, 9.0).second(middle)
    assert torch.allclose(run("dpm_fast", mixture, x, [9.0, 5.0, 4.0, 1.0]), Stages(mixture, second, middle).first(1.0))


@pytest.mark.parametrize("order", [2, 3])
def test_adaptive_steps_keep_the_error_that_is_asked_for(mixture, start, run, order):
    x, sigmas = start(9.0), [9.0, 4.0, 0.3]
    truth = run("lms", mixture, x, torch.linspace(9 ** (1 / 3), 0.3 ** (1 / 3), 1500, dtype=torch.float64) ** 3)
    errors = []
    for tolerance in (1e-1, 1e-2, 1e-3):
        out = run("dpm_adaptive", mixture, x, sigmas, order=order, rtol=tolerance, atol=tolerance / 10)
        errors.append((out - truth).abs().mean().item())
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    assert errors[2] < 1e-3


def test_adaptive_reports_as_often_as_the_schedule_has_steps(table, counted):
    seen = []
    schedule = Schedule(table, [9.0, 7.0, 6.9, 4.0, 1.0, 0.0])
    x = torch.linspace(-9, 9, 16, dtype=torch.float64)
    integrate(make_stepper("dpm_adaptive"), Bare(counted), x, schedule, on_step=lambda i, n, x0: seen.append((i, n, len(counted.calls))))
    assert [(i, n) for i, n, _ in seen] == [(i, 5) for i in range(1, 6)]
    asked = [calls for _, _, calls in seen]
    assert asked == sorted(asked)
    assert asked[0] < asked[3] == asked[4]  # work is spread, and none is left for the step to 0


def test_a_state_that_is_edited_between_steps_is_walked_on_from(table, gaussian):
    class Shift(Bare):
        def after(self, x, x0, step):
            return x + 1.0 if step.index == 0 else x

    schedule = Schedule(table, [9.0, 2.0, 0.5])
    x = torch.zeros(4, dtype=torch.float64)
    plain, edited = (integrate(make_stepper("dpm_fast"), net(gaussian), x, schedule) for net in (Bare, Shift))
    assert not torch.allclose(plain, edited + 0.0)


def test_ancestral_noise_reaches_the_data(table, gaussian, run, white):
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(0)) * table.sigma_max + gaussian.mu
    out = run("dpm_adaptive", gaussian, x, [table.sigma_max, 0.03], white(x), eta=1.0, rtol=0.02, atol=0.002)
    assert out.mean().item() == pytest.approx(gaussian.mu, abs=0.02)
    assert out.std().item() == pytest.approx(math.hypot(gaussian.s, 0.03), rel=0.04)


def test_the_controller_shortens_after_a_large_error_and_lengthens_after_a_small_one():
    length = StepLength(0.1, 0.0, 1.0, 0.0, 1.0, 0.81)
    assert length.accepts(1.0)
    assert length.h == pytest.approx(0.1, rel=1e-6)
    assert not length.accepts(4.0)
    assert length.h == pytest.approx(0.1 * (1 + math.atan(1 / 4 - 1)), rel=1e-6)
    assert length.accepts(0.5)
    assert length.h == pytest.approx(0.1 * (1 + math.atan(1 / 4 - 1)) * (1 + math.atan(2 - 1)), rel=1e-6)


def test_the_controller_remembers_accepted_errors_only():
    """p and d terms: the errors of two steps before, of which a refused one is none."""
    length = StepLength(1.0, 0.2, 0.4, 0.1, 1.0, 0.81)
    errors, h = [1.0, 9.0, 0.8], 1.0
    kept = [1.0, 1.0]
    for error in errors:
        factor = (1 / error) ** 0.7 * kept[0] ** -0.4 * kept[1] ** 0.1
        h *= 1 + math.atan(factor - 1)
        if length.accepts(error):
            kept = [1 / error, kept[0]]
        assert length.h == pytest.approx(h, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"order": 4}, "order"),
        ({"h_init": 0.0}, "h_init"),
        ({"accept_safety": 1.5}, "accept_safety"),
        ({"rtol": 0.0, "atol": 0.0}, "finite"),
    ],
)
def test_options_with_which_a_run_would_never_end(run, mixture, options, wanted):
    with pytest.raises(ValueError, match=wanted):
        run("dpm_adaptive", mixture, torch.zeros(2), [2.0, 1.0], **options)


def test_a_prediction_that_is_not_finite_ends_the_run(run):
    with pytest.raises(ValueError, match="not finite"):
        run("dpm_adaptive", lambda x, sigma: x * math.nan, torch.ones(2), [2.0, 1.0])


@pytest.mark.parametrize("name", ["dpm_fast", "dpm_adaptive"])
@pytest.mark.parametrize("sigmas", [[0.0, 2.0], [0.0, 1.0, 2.0]])
def test_level_0_is_no_place_to_start_from(run, mixture, name, sigmas):
    with pytest.raises(ValueError, match="cannot start at level 0"):
        run(name, mixture, torch.ones(2), sigmas)


@pytest.mark.parametrize("name", ["dpm_fast", "dpm_adaptive"])
def test_a_single_step_ends_where_it_starts(run, mixture, name):
    assert torch.equal(run(name, mixture, torch.ones(2), [2.0, 0.0]), torch.ones(2))


def test_rising_levels_are_walked_back_to_noise(gaussian, run):
    x = torch.tensor([0.2, 1.0], dtype=torch.float64)
    for name, options in (("dpm_fast", {}), ("dpm_adaptive", {"rtol": 1e-4, "atol": 1e-5})):
        out = run(name, gaussian, x, torch.linspace(0.1, 6.0, 31, dtype=torch.float64), **options)
        assert torch.allclose(out, gaussian.flow(x, 0.1, 6.0), rtol=1e-2), name
