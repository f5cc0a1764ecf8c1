"""InstructPix2Pix: the same picture as the pipeline's from the same 8-channel network, however it is loaded."""

from __future__ import annotations

import shutil

import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionInstructPix2PixPipeline, UNet2DConditionModel

from diffusion.guidance import CFG, Conditional
from diffusion.loading import open_checkpoint, open_unet
from diffusion.patch import StepPatch
from diffusion.sample import sample
from diffusion.spacing import sigmas_for
from diffusion.values import Guider, Image, Latent, Noise, Sampler, Sigmas
from nodes.guiders import DualCFGGuider
from nodes.inpaint_model import InstructPixToPixConditioning

STEPS, S_T, S_I = 4, 5.0, 1.5
# raised inside their schedulers, which hand tensors to numpy
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def wide(tiny_folder, tmp_path_factory):
    """The checkpoint with a network of eight input channels, all with random weights."""
    folder = tmp_path_factory.mktemp("checkpoints") / "wide"
    shutil.copytree(tiny_folder, folder)
    config = UNet2DConditionModel.load_config(tiny_folder / "unet")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        unet = UNet2DConditionModel.from_config(config | {"in_channels": 8})
    unet.save_pretrained(folder / "unet")
    return folder


@pytest.fixture(scope="module")
def picture():
    return Image(torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def theirs(pipeline, parts, wide, picture, x_t):
    scheduler = EulerDiscreteScheduler.from_config(parts["scheduler"].config, timestep_spacing="linspace", steps_offset=1)
    unet = UNet2DConditionModel.from_pretrained(wide / "unet")
    pipe = pipeline(StableDiffusionInstructPix2PixPipeline, scheduler=scheduler, unet=unet, requires_safety_checker=False)
    told = {"num_inference_steps": STEPS, "guidance_scale": S_T, "image_guidance_scale": S_I, "output_type": "latent"}
    return pipe("a red cat", picture.pixels.movedim(-1, 1), **told, latents=x_t).images


def sampled(model, guidance, x_t, device):
    """From x_t scaled by the first level as theirs; a start of ours from noise would scale by √(1 + σ²)."""
    sigmas = sigmas_for(model.process.table(), "normal", STEPS)
    start = Latent(x_t * sigmas[0] / 0.18215)
    return sample(Guider(model, guidance), Noise(None), Sampler.of("euler"), Sigmas(sigmas), start, device)[0].x * 0.18215


@pytest.mark.parametrize("loaded", ["folder", "network"])
def test_the_picture_is_theirs(ctx, wide, clip, vae, red, empty, picture, theirs, device, x_t, loaded):
    model = open_checkpoint(wide)[0] if loaded == "folder" else open_unet(wide)
    shown = InstructPixToPixConditioning(positive=red, negative=empty, vae=vae, pixels=picture).run(ctx)
    guider = DualCFGGuider(
        model=model, cond1=shown.positive, cond2=shown.negative, negative=empty, cfg_conds=S_T, cfg_cond2_negative=S_I
    ).run(ctx)
    ours = sampled(model, guider.guidance, x_t, device)
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=2e-4)
    one_scale = sampled(model, CFG(shown.positive, shown.negative, S_T), x_t, device)
    assert not torch.allclose(one_scale, theirs, atol=1e-2)


def test_a_start_of_ours_is_wider_by_one_in_430(model, x_t, device, red):
    sigmas = sigmas_for(model.process.table(), "normal", STEPS)
    seen = []

    def stop(i, n, x0):
        raise StopIteration

    class Start(StepPatch):
        def before(self, x, step):
            seen.append(x)
            return x

    guider = Guider(model.patched(Start()), Conditional(red))
    with pytest.raises(StopIteration):
        sample(guider, Noise(1), Sampler.of("euler"), Sigmas(sigmas), Latent(torch.zeros_like(x_t)), device, on_step=stop)
    torch.testing.assert_close(seen[0], x_t * sigmas[0] * (1 + 1 / 430), atol=1e-3, rtol=0)  # x_t is the noise of seed 1
