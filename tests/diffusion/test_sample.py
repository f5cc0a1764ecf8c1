from dataclasses import replace

import pytest
import torch

from diffusion.guidance import CFG, Conditional
from diffusion.noise import prepare_noise
from diffusion.pair import stacked
from diffusion.sample import fit_mask, sample
from diffusion.samplers import SAMPLERS, integrate, make_stepper
from diffusion.schedule import Schedule
from diffusion.session import open_session
from diffusion.spacing import advanced_range, sigmas_for, split
from diffusion.values import Guider, Latent, Noise, Sampler, Sigmas

SCALE = 0.18215
EULER = Sampler.of("euler")


@pytest.fixture
def guider(model, guidance) -> Guider:
    return Guider(model, guidance)


@pytest.fixture
def sigmas(model) -> Sigmas:
    return Sigmas(sigmas_for(model.process.table(), "normal", 4))


EMPTY = Latent(torch.zeros(1, 4, 8, 8))


def some_latent() -> Latent:
    return Latent(torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5)) * 4)


def test_sampling_is_noise_then_the_loop_then_unscaling(guider, device, sigmas):
    latent = some_latent()
    out, denoised = sample(guider, Noise(3), EULER, sigmas, latent, device)
    levels = sigmas.values.tolist()
    start = latent.x * SCALE + prepare_noise((1, 4, 8, 8), 3) * (1 + levels[0] ** 2) ** 0.5
    seen = []
    with open_session(guider.model, guider.guidance, device) as net:
        x = integrate(make_stepper("euler"), net, start, Schedule(net.table, levels), on_step=lambda i, n, x0: seen.append(x0))
    assert torch.equal(out.x, x / SCALE)
    assert torch.equal(denoised.x, seen[-1] / SCALE)
    assert out.format == "sd1"


def test_below_the_noisiest_level_the_noise_is_scaled_by_sigma(guider, device):
    seen = []
    latent = some_latent()

    def stop(i, n, x0):
        seen.append(x0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(guider, Noise(3), EULER, Sigmas(torch.tensor([2.0, 0.0])), latent, device, on_step=stop)
    with open_session(guider.model, guider.guidance, device) as net:
        assert torch.allclose(seen[0], net.denoise(latent.x * SCALE + 2 * prepare_noise((1, 4, 8, 8), 3), 2.0), atol=1e-5)


def test_a_seed_means_the_same_again_and_no_global_random_state_moves(guider, device, sigmas):
    state = torch.get_rng_state()
    runs = [sample(guider, Noise(seed), Sampler.of("euler_ancestral"), sigmas, EMPTY, device)[0].x for seed in (1, 1, 2)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.allclose(runs[0], runs[2])
    assert torch.equal(torch.get_rng_state(), state)


def test_no_levels_leave_the_latent_as_it_is(guider, device):
    latent = some_latent()
    for result in sample(guider, Noise(1), EULER, Sigmas(torch.zeros(0)), latent, device):
        assert result is latent


def test_one_level_gives_its_noise_and_takes_no_step(guider, device):
    """So that the two lists of SplitSigmas at step 0 are the whole walk, as at any other step."""
    latent, noise = some_latent(), prepare_noise((1, 4, 8, 8), 1)
    for result in sample(guider, Noise(1), EULER, Sigmas(torch.tensor([3.0])), latent, device):
        assert torch.allclose(result.x, latent.x + 3 * noise / SCALE, atol=1e-5)
    for seed, level in ((None, 3.0), (1, 0.0)):
        out, _ = sample(guider, Noise(seed), EULER, Sigmas(torch.tensor([level])), latent, device)
        assert torch.allclose(out.x, latent.x)


@pytest.mark.parametrize("step", [0, 1, 4])
def test_the_two_lists_of_a_split_are_the_whole_walk(guider, device, sigmas, step):
    whole, _ = sample(guider, Noise(7), EULER, sigmas, EMPTY, device)
    high, low = map(Sigmas, split(sigmas.values, step))
    first, _ = sample(guider, Noise(7), EULER, high, EMPTY, device)
    second, _ = sample(guider, Noise(None), EULER, low, first, device)
    assert torch.allclose(second.x, whole.x, atol=1e-3)


def test_two_samplers_in_a_row_are_one(guider, device, sigmas):
    whole, _ = sample(guider, Noise(7), EULER, sigmas, EMPTY, device)
    first, _ = sample(guider, Noise(7), EULER, Sigmas(advanced_range(sigmas.values, 0, 2, True)), EMPTY, device)
    second, _ = sample(guider, Noise(None), EULER, Sigmas(advanced_range(sigmas.values, 2, 4, False)), first, device)
    assert torch.allclose(second.x, whole.x, atol=1e-3)


def test_a_row_of_a_batch_is_found_again_by_its_index(guider, device, sigmas):
    batch, _ = sample(guider, Noise(7), EULER, sigmas, Latent(torch.zeros(3, 4, 8, 8)), device)
    alone, _ = sample(guider, Noise(7), EULER, sigmas, Latent(torch.zeros(1, 4, 8, 8), batch_index=(2,)), device)
    assert torch.allclose(alone.x, batch.x[2:], atol=1e-3)
    assert alone.batch_index == (2,)


@pytest.mark.parametrize("name", [name for name in SAMPLERS if not name.endswith("_gpu")])
def test_every_sampler_runs_and_reports_its_steps(guider, device, sigmas, name):
    steps = []
    options = {"rtol": 2.0} if name == "dpm_adaptive" else {}  # a network of random weights is not smooth
    sampler = Sampler.of(name, **options)
    out, _ = sample(guider, Noise(1), sampler, sigmas, EMPTY, device, on_step=lambda i, n, x0: steps.append((i, n, x0.shape)))
    assert torch.isfinite(out.x).all()
    assert [i for i, _, _ in steps] == [1, 2, 3, 4]
    assert {(n, shape) for _, n, shape in steps} == {(4, (1, 4, 8, 8))}


def test_rows_of_one_index_share_the_steps_noise_beside_their_source_only(guider, model, red, blue, device, sigmas):
    """As in ComfyUI, whose stochastic steps know no batch_index; prompts for single rows it does not have."""
    sampler, start = Sampler.of("euler_ancestral"), Latent(torch.zeros(2, 4, 8, 8), batch_index=(0, 0))
    plain, _ = sample(guider, Noise(7), sampler, sigmas, start, device)
    assert (plain.x[0] - plain.x[1]).abs().max() > 1e-2
    paired, _ = sample(Guider(model, CFG(stacked(red, red), blue, 3.0)), Noise(7), sampler, sigmas, start, device)
    torch.testing.assert_close(paired.x[0], paired.x[1], atol=1e-4, rtol=1e-4)


def test_ddim_is_eulers_method_up_the_levels_too(guider, device, sigmas):
    up = Sigmas(sigmas.values.flip(0).clamp(min=1e-4))
    start = Latent(torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)))
    a, b = (sample(guider, Noise(None), Sampler.of(name), up, start, device)[0].x for name in ("ddim", "euler"))
    assert torch.equal(a, b)


def test_options_reach_the_sampler(guider, device, sigmas):
    plain, _ = sample(guider, Noise(1), EULER, sigmas, EMPTY, device)
    ode, _ = sample(guider, Noise(1), Sampler.of("euler_ancestral", eta=0.0), sigmas, EMPTY, device)
    assert torch.allclose(plain.x, ode.x, atol=1e-3)


def test_the_seed_of_the_steps_may_differ_from_that_of_the_start(guider, device, sigmas):
    ancestral = Sampler.of("euler_ancestral")
    a, b, c = (sample(guider, Noise(1), ancestral, sigmas, EMPTY, device, seed=seed)[0].x for seed in (None, 1, 2))
    assert torch.equal(a, b)
    assert not torch.allclose(a, c)


# -- masks --


@pytest.mark.parametrize("name", ["euler", "ddim", "dpmpp_2m", "euler_ancestral"])
def test_outside_of_the_mask_the_latent_comes_back(guider, device, sigmas, name):
    latent = some_latent()
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 4:] = 1
    out, _ = sample(guider, Noise(1), Sampler.of(name), sigmas, replace(latent, noise_mask=mask), device)
    assert torch.allclose(out.x[..., :4], latent.x[..., :4], atol=1e-4)
    assert not torch.allclose(out.x[..., 4:], latent.x[..., 4:], atol=0.5)
    assert out.noise_mask is mask


def test_a_mask_of_ones_is_no_mask_and_of_zeros_keeps_all(guider, device, sigmas):
    latent = some_latent()
    free, _ = sample(guider, Noise(1), EULER, sigmas, latent, device)
    ones, _ = sample(guider, Noise(1), EULER, sigmas, replace(latent, noise_mask=torch.ones(1, 1, 64, 64)), device)
    zeros, _ = sample(guider, Noise(1), EULER, sigmas, replace(latent, noise_mask=torch.zeros(1, 1, 8, 8)), device)
    assert torch.allclose(ones.x, free.x, atol=1e-3)
    assert torch.allclose(zeros.x, latent.x, atol=1e-4)


def test_the_network_sees_the_original_noised_to_the_level_where_the_mask_is_soft(model, device, guidance, sigmas):
    from dataclasses import dataclass

    from diffusion.patch import FeaturePatch

    seen = []

    @dataclass(frozen=True, slots=True, eq=False)
    class Look(FeaturePatch):
        def residuals(self, call):
            seen.append((call.step.sigma, call.x[:1]))
            return

    latent = replace(some_latent(), noise_mask=torch.full((1, 1, 8, 8), 0.25))
    out, denoised = sample(Guider(model.patched(Look()), guidance), Noise(9), EULER, Sigmas(torch.tensor([3.0, 1.0])), latent, device)
    start, noise = latent.x * SCALE, prepare_noise((1, 4, 8, 8), 9)
    x = start + 3.0 * noise
    ((sigma, scaled),) = seen
    assert torch.allclose(scaled, x / (sigma**2 + 1) ** 0.5, atol=1e-5)  # here x already is the noised original
    with open_session(model, guidance, device) as net:
        d = 0.25 * net.denoise(x, 3.0) + 0.75 * start
    assert torch.allclose(denoised.x * SCALE, d, atol=1e-4)
    assert torch.allclose(out.x * SCALE, x + (x - d) / 3.0 * (1.0 - 3.0), atol=1e-4)


def test_masks_are_resized_bilinearly_and_repeated():
    mask = torch.rand(2, 1, 64, 48, generator=torch.Generator().manual_seed(0))
    fitted = fit_mask(mask, torch.zeros(3, 4, 8, 6))
    assert fitted.shape == (3, 1, 8, 6)
    assert torch.equal(fitted[2], fitted[0])
    assert torch.equal(fitted[:2], torch.nn.functional.interpolate(mask, (8, 6), mode="bilinear"))


# -- ends --


def test_a_run_that_is_stopped_leaves_the_model_as_it_was(guider, device, sigmas):
    before, _ = sample(guider, Noise(1), EULER, sigmas, EMPTY, device)

    def stop(i, n, x0):
        if i == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        sample(guider, Noise(1), EULER, sigmas, EMPTY, device, on_step=stop)
    again, _ = sample(guider, Noise(1), EULER, sigmas, EMPTY, device)
    assert torch.equal(again.x, before.x)


def test_the_net_can_be_inspected_before_it_closes(guider, device, sigmas):
    seen = []
    sample(
        guider,
        Noise(1),
        EULER,
        sigmas,
        Latent(torch.zeros(2, 4, 8, 8)),
        device,
        inspect=lambda net: seen.append((net.closed, net.samples)),
        samples=("source", "target"),
    )
    assert seen == [(False, ("source", "target"))]


def test_latents_of_other_models_are_refused(guider, device, sigmas):
    for latent, wanted in (
        (Latent(torch.zeros(1, 4, 8, 8), format="sdxl"), "sdxl given"),
        (Latent(torch.zeros(1, 16, 8, 8)), "4 channels"),
        (Latent(torch.zeros(0, 4, 8, 8)), "at least one"),
    ):
        with pytest.raises(ValueError, match=wanted):
            sample(guider, Noise(1), EULER, sigmas, latent, device)


def test_inputs_stay_as_they_are(model, device, red, blue, sigmas):
    latent = replace(some_latent(), noise_mask=torch.ones(1, 1, 8, 8))
    tensors = [latent.x, latent.noise_mask, sigmas.values, red.entries[0].embeds, blue.entries[0].embeds]
    versions = [t._version for t in tensors]
    sample(Guider(model, CFG(red, blue, 2.0)), Noise(1), Sampler.of("dpmpp_2m"), sigmas, latent, device)
    assert [t._version for t in tensors] == versions


# -- samplers that want the negative branch --


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_cfg_pp_moves_along_the_negative_branch_whatever_the_scale(guider, device, red, blue, scale):
    """One step of CFG++ to a level above 0: D + sigma_next (X - U) / sigma. At scale 1 the guidance alone would leave U out."""
    guider = Guider(guider.model, CFG(red, blue, scale))
    out, denoised = sample(guider, Noise(3), Sampler.of("euler_cfg_pp"), Sigmas(torch.tensor([2.0, 0.5])), some_latent(), device)
    start = some_latent().x * SCALE + 2 * prepare_noise((1, 4, 8, 8), 3)
    with open_session(guider.model, guider.guidance, device) as net:
        d, u = net.denoise(start, 2.0), net.predict("negative", start, 2.0)
    assert torch.allclose(denoised.x * SCALE, d, atol=1e-4)
    assert torch.allclose(out.x * SCALE, d + 0.5 * (start - u) / 2.0, atol=1e-4)
    assert not torch.allclose(d, u, atol=1e-4)


def test_cfg_pp_says_what_guider_it_wants(guider, device, red, sigmas):
    alone = Guider(guider.model, Conditional(red))
    with pytest.raises(ValueError, match="guider: this sampler wants a negative conditioning"):
        sample(alone, Noise(3), Sampler.of("euler_cfg_pp"), sigmas, EMPTY, device)


def test_outside_of_the_mask_cfg_pp_ends_on_the_latent(guider, device, sigmas):
    latent = some_latent()
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    out, _ = sample(guider, Noise(3), Sampler.of("euler_cfg_pp"), sigmas, replace(latent, noise_mask=mask), device)
    assert torch.allclose(out.x[..., 4:], latent.x[..., 4:], atol=1e-4)
    assert not torch.allclose(out.x[..., :4], latent.x[..., :4], atol=0.1)
