"""Self-attention guidance: the same picture as the pipeline's, whose blur is half as wide as our default."""

from __future__ import annotations

import pytest
import torch
from diffusers import StableDiffusionSAGPipeline

from diffusion.guidance import CFG
from nodes.self_attention_guidance import SelfAttentionGuidance

BLUR = 1.0  # written into their code
STEPS = 5


@pytest.fixture
def theirs(pipeline, x_t):
    pipe = pipeline(StableDiffusionSAGPipeline)

    def run(scale, cfg=3.0):
        told = {"negative_prompt": "a blue dog", "guidance_scale": cfg, "sag_scale": scale, "num_inference_steps": STEPS}
        return pipe("a red cat", **told, height=64, width=64, latents=x_t, output_type="latent").images, pipe.scheduler.timesteps

    return run


@pytest.mark.parametrize("scale", [0.75, 2.0])
def test_the_picture_is_theirs_at_their_blur(ctx, model, red, blue, walk, x_t, theirs, scale):
    wanted, timesteps = theirs(scale)
    plain, _ = theirs(0.0)
    ours = walk(SelfAttentionGuidance(model=model, scale=scale, blur_sigma=BLUR).run(ctx), CFG(red, blue, 3.0), x_t, timesteps)
    assert (wanted - plain).abs().max() > 0.01
    torch.testing.assert_close(ours, wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(walk(model, CFG(red, blue, 3.0), x_t, timesteps), plain, atol=1e-4, rtol=1e-4)


def test_our_default_blurs_wider(ctx, model, red, blue, walk, x_t, theirs):
    wanted, timesteps = theirs(0.75)
    ours = walk(SelfAttentionGuidance(model=model, scale=0.75).run(ctx), CFG(red, blue, 3.0), x_t, timesteps)
    assert not torch.allclose(ours, wanted, atol=1e-3)
