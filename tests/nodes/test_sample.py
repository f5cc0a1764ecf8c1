from dataclasses import replace

import pytest
import torch

from diffusion.noise import prepare_noise
from diffusion.spacing import sigmas_for
from diffusion.values import Latent, Mask, Sampler, Sigmas
from graph_engine.context import Context
from nodes.custom_sampling import SamplerCustom
from nodes.latent import EmptyLatentImage, SetLatentNoiseMask
from nodes.latent_batch import LatentFromBatch
from nodes.sample import KSampler, KSamplerAdvanced

SCALE = 0.18215


@pytest.fixture
def empty(ctx) -> Latent:
    return EmptyLatentImage(width=64, height=64).run(ctx)


@pytest.fixture
def start() -> Latent:
    return Latent(torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(9)) * 5)


@pytest.fixture
def sampled(ctx, model, red, blue):
    def run(latent: Latent, **change) -> Latent:
        settings = {"seed": 7, "steps": 4, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal"} | change
        return KSampler(model=model, positive=red, negative=blue, latent_image=latent, **settings).run(ctx)

    return run


@pytest.fixture
def advanced(ctx, model, red, blue):
    def run(latent: Latent, **change) -> Latent:
        settings = {"noise_seed": 7, "steps": 4, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal"} | change
        return KSamplerAdvanced(model=model, positive=red, negative=blue, latent_image=latent, **settings).run(ctx)

    return run


class Steps:
    """A watch that writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, int]] = []
        self.pictures: list[bytes | None] = []

    def check(self) -> None: ...

    def step(self, step, steps, preview) -> None:
        self.heard.append((step, steps))
        self.pictures.append(preview and preview())


def test_a_seed_is_a_picture(sampled, empty):
    assert torch.equal(sampled(empty).x, sampled(empty).x)
    assert not torch.equal(sampled(empty).x, sampled(empty, seed=8).x)


def test_every_step_is_reported_with_a_preview(device, folders, model, red, blue, empty):
    watch = Steps()
    ctx = Context(folders=folders, device=lambda: device, watch=watch)
    sampler = {"sampler_name": "heun", "scheduler": "karras", "steps": 3, "positive": red, "negative": blue}
    KSampler(model=model, latent_image=empty, **sampler).run(ctx)
    assert watch.heard == [(1, 3), (2, 3), (3, 3)]
    assert all(picture.startswith(b"\xff\xd8") for picture in watch.pictures)


@pytest.mark.parametrize(("steps", "denoise"), [(4, 0.5), (5, 0.6), (3, 0.34), (2, 1.0)])
def test_denoise_runs_exactly_the_steps_at_the_clean_end_of_a_longer_schedule(device, folders, model, red, blue, start, steps, denoise):
    watch = Steps()
    ctx = Context(folders=folders, device=lambda: device, watch=watch)
    settings = {"sampler_name": "euler", "scheduler": "karras", "steps": steps, "denoise": denoise, "seed": 1}
    out = KSampler(model=model, positive=red, negative=blue, latent_image=start, cfg=2.0, **settings).run(ctx)
    assert watch.heard == [(i, steps) for i in range(1, steps + 1)]
    total = int(steps / denoise)
    levels = sigmas_for(model.process.table(), "karras", total)[-(steps + 1) :]
    first = start.x * SCALE + prepare_noise(start.x.shape, 1) * levels[0] * (1 if denoise < 1 else (1 + 1 / levels[0] ** 2) ** 0.5)
    noisy = replace(start, x=first / SCALE)
    part = {"steps": total, "start_at_step": total - steps, "add_noise": "disable", "scheduler": "karras", "sampler_name": "euler"}
    again = KSamplerAdvanced(model=model, positive=red, negative=blue, latent_image=noisy, cfg=2.0, **part).run(ctx)
    assert torch.allclose(out.x, again.x, atol=1e-4)


def test_denoise_zero_gives_the_latent_back(sampled, start):
    assert torch.equal(sampled(start, denoise=0.0).x, start.x)


def test_a_run_with_leftover_noise_goes_on_as_if_never_cut(advanced, sampled, empty):
    whole = sampled(empty)
    half = advanced(empty, end_at_step=2, return_with_leftover_noise="enable")
    rest = advanced(half, start_at_step=2, add_noise="disable")
    assert torch.allclose(rest.x, whole.x, atol=1e-4)
    assert torch.equal(advanced(empty).x, whole.x)


def test_without_leftover_noise_the_last_step_goes_to_clean(ctx, advanced, model, red, blue, empty):
    levels = sigmas_for(model.process.table(), "normal", 4)
    levels = Sigmas(torch.tensor([levels[0], levels[1], 0]))
    parts = {"model": model, "positive": red, "negative": blue, "cfg": 3.0, "noise_seed": 7, "sampler": Sampler.of("euler")}
    wanted = SamplerCustom(sigmas=levels, latent_image=empty, **parts).run(ctx).output
    assert torch.equal(advanced(empty, end_at_step=2).x, wanted.x)


def test_nothing_left_to_do_gives_the_latent_back(advanced, start):
    assert torch.equal(advanced(start, start_at_step=4).x, start.x)
    assert torch.equal(advanced(start, start_at_step=9, end_at_step=9).x, start.x)


def test_guidance_one_does_not_look_at_the_negative(sampled, ctx, model, red, empty):
    nonsense = red.map(embeds=red.entries[0].embeds * torch.nan)
    settings = {"seed": 7, "steps": 4, "sampler_name": "euler", "scheduler": "normal", "cfg": 1.0}
    out = KSampler(model=model, positive=red, negative=nonsense, latent_image=empty, **settings).run(ctx)
    assert torch.equal(out.x, sampled(empty, cfg=1.0).x)
    assert not out.x.isnan().any()


def test_one_of_a_batch_comes_out_as_in_the_batch(ctx, sampled):
    batch = EmptyLatentImage(width=64, height=64, batch_size=3).run(ctx)
    alone = LatentFromBatch(samples=batch, batch_index=1).run(ctx)
    together = sampled(batch).x[1:2]
    torch.testing.assert_close(sampled(alone).x, together, rtol=0.0, atol=1e-5 * together.abs().max().item())


def test_what_the_noise_mask_leaves_out_stays(ctx, sampled, start):
    mask = torch.zeros(1, 8, 8)
    mask[:, :, 4:] = 1
    out = sampled(SetLatentNoiseMask(samples=start, mask=Mask(mask)).run(ctx)).x
    assert torch.allclose(out[..., :4], start.x[..., :4], atol=1e-4)
    assert not torch.allclose(out[..., 4:], start.x[..., 4:], atol=1)


def test_stochastic_samplers_depend_on_the_seed_alone(advanced, sampled, start):
    for name in ("euler_ancestral", "dpmpp_sde"):
        once, twice = (advanced(start, sampler_name=name, add_noise="disable", noise_seed=3).x for _ in range(2))
        assert torch.equal(once, twice)
        assert not torch.equal(once, advanced(start, sampler_name=name, add_noise="disable", noise_seed=4).x)


def test_a_latent_of_another_kind_is_refused(sampled, start):
    with pytest.raises(ValueError, match="latent: a sd1 latent is wanted by this model, sdxl given"):
        sampled(replace(start, format="sdxl"))
    with pytest.raises(ValueError, match="latent: 4 channels are wanted by this model, 16 given"):
        sampled(Latent(torch.zeros(1, 16, 8, 8)))
