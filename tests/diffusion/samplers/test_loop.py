import pytest
import torch

from diffusion.samplers import Bare, Denoiser, integrate, make_stepper
from diffusion.schedule import Schedule


class Recording:
    """A net that edits the state on both sides of a step and writes down what it saw."""

    def __init__(self, denoise):
        self.denoise = denoise
        self.seen = []

    def before(self, x, step):
        self.seen.append(("before", step.index))
        return x + 1

    def after(self, x, x0, step):
        self.seen.append(("after", step.index))
        self.x0 = x0
        return x * 2


def test_edits_enter_before_and_after_each_step(table, gaussian):
    schedule = Schedule(table, [3.0, 1.0, 0.5])
    net, x = Recording(gaussian), torch.full((2,), 0.7)
    out = integrate(make_stepper("euler"), net, x, schedule)
    assert net.seen == [("before", 0), ("after", 0), ("before", 1), ("after", 1)]
    for sigma, sigma_next in [(3.0, 1.0), (1.0, 0.5)]:
        y = x + 1
        x0 = gaussian(y, sigma)
        x = 2 * (y + (y - x0) / sigma * (sigma_next - sigma))
    assert torch.allclose(out, x)
    assert torch.allclose(net.x0, x0)


def test_an_empty_schedule_returns_the_state(table, gaussian):
    x = torch.ones(3)
    assert integrate(make_stepper("euler"), Bare(gaussian), x, Schedule(table, [])) is x


def test_a_report_may_stop_the_run(table, gaussian):
    class Stop(Exception):
        pass

    def on_step(i, n, x0):
        if i == 2:
            raise Stop

    calls = []

    def denoise(x, sigma):
        calls.append(sigma)
        return gaussian(x, sigma)

    schedule = Schedule(table, [3.0, 2.0, 1.0, 0.0])
    with pytest.raises(Stop):
        integrate(make_stepper("euler"), Bare(denoise), torch.ones(2), schedule, on_step=on_step)
    assert calls == [3.0, 2.0]
    assert torch.is_grad_enabled()


def test_gradients_are_off_unless_asked_for(table, gaussian):
    x = torch.ones(2, requires_grad=True)
    schedule = Schedule(table, [3.0, 1.0, 0.0])
    assert not integrate(make_stepper("heun"), Bare(gaussian), x, schedule).requires_grad
    out = integrate(make_stepper("heun"), Bare(gaussian), x, schedule, grad=True)
    (slope,) = torch.autograd.grad(out.sum(), x)
    assert bool((slope > 0).all())


def test_a_stochastic_sampler_without_noise_says_so(table, gaussian):
    with pytest.raises(ValueError, match="noise"):
        integrate(make_stepper("euler_ancestral"), Bare(gaussian), torch.ones(2), Schedule(table, [3.0, 1.0, 0.0]))


def test_a_stepper_is_made_for_one_run(table, mixture):
    x, schedule = torch.linspace(-9, 9, 16), Schedule(table, [8.0, 4.0, 2.0, 1.0])
    stepper = make_stepper("dpmpp_2m")
    first = integrate(stepper, Bare(mixture), x, schedule)
    assert torch.equal(integrate(make_stepper("dpmpp_2m"), Bare(mixture), x, schedule), first)


def test_a_stepper_may_ask_for_the_negative_branch(gaussian, mixture):
    x = torch.linspace(-3, 3, 5)
    x0, negative = Denoiser(Bare(gaussian, mixture)).with_negative(x, 2.0)
    assert torch.equal(x0, gaussian(x, 2.0))
    assert torch.equal(negative, mixture(x, 2.0))
    with pytest.raises(ValueError, match=r"guider: this sampler wants a negative conditioning"):
        Denoiser(Bare(gaussian)).with_negative(x, 2.0)
