"""Image to image: the same picture as the pipeline's, but for how a picture is encoded and how a strength becomes a number of steps."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionImg2ImgPipeline

from diffusion.noise import prepare_noise
from diffusion.vae import encode
from diffusion.values import Image, Latent
from nodes.sample import KSampler

SEED = 3
# raised inside their schedulers, which hand tensors to numpy
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def pipe(pipeline, parts):
    scheduler = EulerDiscreteScheduler.from_config(parts["scheduler"].config, timestep_spacing="linspace", steps_offset=1)
    return pipeline(StableDiffusionImg2ImgPipeline, scheduler=scheduler, requires_safety_checker=False)


@pytest.fixture
def picture():
    return Image(torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0)))


def theirs(pipe, image, steps, strength, times=lambda t: t):
    evaluated = []

    def told_the_time(unet, args):
        evaluated.append(1)
        return args[0], times(args[1]), *args[2:]

    hook = pipe.unet.register_forward_pre_hook(told_the_time)
    told = {"negative_prompt": "a blue dog", "guidance_scale": 3.0, "num_inference_steps": steps, "strength": strength}
    latent = pipe("a red cat", image, **told, generator=torch.Generator().manual_seed(SEED), output_type="latent").images
    hook.remove()
    return latent, len(evaluated)


def ours(ctx, model, red, blue, latent, steps, denoise):
    settings = {"seed": SEED, "steps": steps, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": denoise}
    return KSampler(model=model, positive=red, negative=blue, latent_image=latent, **settings).run(ctx).x * 0.18215


def test_a_latent_becomes_the_same_picture(ctx, model, vae, red, blue, device, pipe, picture):
    """Their strength s of N steps is our denoise s with s·N steps: ours counts those that are taken."""
    latent = encode(vae, picture, device)
    wanted, evaluated = theirs(pipe, latent.x * 0.18215, 10, 0.5)
    assert evaluated == 5
    torch.testing.assert_close(ours(ctx, model, red, blue, latent, 5, 0.5), wanted, atol=2e-4, rtol=2e-4)


def test_between_two_timesteps_they_tell_the_network_a_fraction_and_we_the_nearer_one(ctx, model, vae, red, blue, device, pipe, picture):
    latent = encode(vae, picture, device)  # 8 steps are not a divisor of the range: timesteps 285.43 and 142.71 are visited
    mine = ours(ctx, model, red, blue, latent, 2, 0.25)
    assert not torch.allclose(theirs(pipe, latent.x * 0.18215, 8, 0.25)[0], mine, atol=1e-2)
    wanted, _ = theirs(pipe, latent.x * 0.18215, 8, 0.25, torch.round)
    torch.testing.assert_close(mine, wanted, atol=2e-4, rtol=2e-4)


def test_their_number_of_steps_is_cut_off(ctx, model, red, blue, pipe):
    """0.58 of 50 steps are 29; a product of floats just below it makes 28 of them. Ours takes what it is told."""
    latent = prepare_noise((1, 4, 8, 8), 5)
    assert theirs(pipe, latent * 0.18215, 50, 0.58)[1] == 28
    taken = []
    settings = {"model": model, "positive": red, "negative": blue, "latent_image": Latent(latent), "steps": 29, "denoise": 0.58}
    heard = SimpleNamespace(device=ctx.device, step=lambda i, n, preview=None: taken.append((i, n)))
    KSampler(**settings, sampler_name="euler", scheduler="normal", cfg=3.0).run(heard)
    assert taken[-1] == (29, 29)


def test_they_draw_a_sample_of_the_encoding_and_we_take_its_mode(ctx, model, vae, red, blue, device, pipe, picture, monkeypatch):
    latent = encode(vae, picture, device)
    mine = ours(ctx, model, red, blue, latent, 5, 0.5)
    pixels = picture.pixels.movedim(-1, 1)
    drawn, _ = theirs(pipe, pixels, 10, 0.5)
    assert not torch.allclose(mine, drawn, atol=1e-2)
    kind = type(pipe.vae.encode(pixels).latent_dist)
    monkeypatch.setattr(kind, "sample", lambda self, generator=None: self.mode())
    wanted, _ = theirs(pipe, pixels, 10, 0.5)
    torch.testing.assert_close(mine, wanted, atol=2e-4, rtol=2e-4)
