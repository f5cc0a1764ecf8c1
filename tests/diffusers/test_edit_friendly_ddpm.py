"""Edit-friendly DDPM inversion beside LEDITS++: the same states and noises, but for three things of the pipeline that we do not do."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, LEditsPPPipelineStableDiffusion

from diffusion.guidance import CFG, Conditional
from diffusion.noise import prepare_noise
from diffusion.samplers import integrate
from diffusion.schedule import Schedule
from diffusion.session import open_session
from diffusion.trajectory import replay_step
from diffusion.vae import encode
from diffusion.values import Image, Trajectory
from nodes.edit_friendly_ddpm import edit_friendly

STEPS, SEED = 5, 3


class WithWholeTimesteps(DDIMScheduler):
    """Their scheduler, which invert() asks for noise at a timestep that it has made a float; so it cannot look it up."""

    def add_noise(self, original_samples, noise, timesteps):
        return super().add_noise(original_samples, noise, timesteps.long())


@pytest.fixture
def picture():
    return Image(torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def pipe(pipeline, parts):
    scheduler = WithWholeTimesteps.from_config(parts["scheduler"].config)
    return pipeline(LEditsPPPipelineStableDiffusion, scheduler=scheduler, requires_safety_checker=False)


def invert(pipe, picture, prompt, scale):
    """Their states at the noisiest level in VE form, and noises, clean end first."""
    told = {"source_prompt": prompt, "source_guidance_scale": scale, "num_inversion_steps": STEPS, "skip": 0.0}
    pipe.invert(picture.pixels.movedim(-1, 1), **told, generator=torch.Generator().manual_seed(SEED))
    ab = pipe.scheduler.alphas_cumprod[pipe.inversion_steps[0]]
    return pipe.init_latents / ab.sqrt(), pipe.zs.flip(0)


@pytest.fixture
def ours(model, vae, picture, device, pipe):
    """Our states and noises under some guidance, on their levels and draws."""

    def run(guidance):
        pipe.scheduler.set_timesteps(STEPS)
        levels = Schedule.at(model.process.table(), pipe.scheduler.timesteps.tolist())
        x0 = encode(vae, picture, device).x * 0.18215
        with open_session(model, guidance, device, sigmas=levels.sigmas) as net:
            return edit_friendly(net, x0, levels, prepare_noise((STEPS, 4, 8, 8), SEED)[:, None], 1.0)

    return run


def test_states_and_noises_are_theirs_but_for_the_remainder_of_the_last_step(pipe, picture, ours, empty):
    top, theirs = invert(pipe, picture, "", 3.5)
    states, noises = ours(Conditional(empty))
    torch.testing.assert_close(states[-1], top, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(noises[1:], theirs[1:], atol=2e-3, rtol=2e-3)
    assert not theirs[0].any()  # nothing is stochastic about a step to the clean end
    assert noises[0].abs().max() > 0.1  # ours keeps there what is left of the picture


def test_theirs_explains_the_picture_under_the_two_prompts_in_each_others_place(pipe, picture, ours, red, empty):
    """invert() unpacks (empty, prompt) of encode_prompt(), which returns (prompt, empty): it is guided from the prompt to the empty one."""
    _, theirs = invert(pipe, picture, "a red cat", 3.5)
    _, straight = ours(CFG(red, empty, 3.5))
    _, swapped = ours(CFG(empty, red, 3.5))
    assert not torch.allclose(straight[1:], theirs[1:], atol=0.05)
    torch.testing.assert_close(swapped[1:], theirs[1:], atol=5e-3, rtol=5e-3)


@pytest.fixture
def replayed(model, device, pipe):
    """Down our states from the noisiest one, with some noises."""

    def run(guidance, states, noises):
        levels = Schedule.at(model.process.table(), pipe.inversion_steps.tolist())
        path = Trajectory(states, torch.tensor(levels.sigmas[::-1]), noises=noises, eta=1.0)
        with open_session(model, guidance, device, sigmas=levels.sigmas) as net:
            return integrate(replay_step(path, STEPS), net, states[-1], levels)

    return run


def test_with_the_remainder_the_picture_comes_back_and_without_it_theirs(pipe, picture, ours, replayed, vae, empty, device):
    _, theirs = invert(pipe, picture, "", 3.5)
    rebuilt = pipe(editing_prompt=None, output_type="latent").images
    states, noises = ours(Conditional(empty))
    x0 = encode(vae, picture, device).x * 0.18215
    for last, wanted in ((noises[:1], x0), (theirs[:1], rebuilt)):
        torch.testing.assert_close(replayed(Conditional(empty), states, torch.cat([last, noises[1:]])), wanted, atol=2e-3, rtol=2e-3)
    assert not torch.allclose(rebuilt, x0, atol=0.05)


def test_an_edit_without_their_mask_is_guidance_towards_the_new_prompt(pipe, picture, ours, replayed, blue, empty):
    invert(pipe, picture, "", 3.5)
    told = {"editing_prompt": ["a blue dog"], "edit_guidance_scale": 4.0, "edit_warmup_steps": 0, "output_type": "latent"}
    told |= {"use_cross_attn_mask": False, "use_intersect_mask": False}
    everywhere, masked = (pipe(**told, edit_threshold=share).images for share in (0.0, 0.9))
    states, noises = ours(Conditional(empty))
    noises = torch.cat([torch.zeros_like(noises[:1]), noises[1:]])
    mine = replayed(CFG(blue, empty, 4.0), states, noises)
    torch.testing.assert_close(mine, everywhere, atol=5e-3, rtol=5e-3)
    assert not torch.allclose(mine, masked, atol=0.05)
