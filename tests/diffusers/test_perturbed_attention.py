"""Perturbed-attention guidance: the same picture as the pipeline's, with classifier-free guidance and without."""

from __future__ import annotations

import pytest
import torch
from diffusers import StableDiffusionPAGPipeline

from diffusion.guidance import CFG
from nodes.perturbed_attention import PerturbedAttentionGuidance

STEPS = 5


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_the_picture_is_theirs(ctx, model, red, blue, walk, x_t, pipeline, cfg):
    pipe = pipeline(StableDiffusionPAGPipeline, image_encoder=None, requires_safety_checker=False, pag_applied_layers="mid")
    told = {"negative_prompt": "a blue dog", "guidance_scale": cfg, "num_inference_steps": STEPS, "output_type": "latent"}

    def theirs(scale):
        return pipe("a red cat", **told, pag_scale=scale, height=64, width=64, latents=x_t).images

    wanted, plain = theirs(3.0), theirs(0.0)
    patched = PerturbedAttentionGuidance(model=model, scale=3.0).run(ctx)
    assert (wanted - plain).abs().max() > 0.01
    torch.testing.assert_close(walk(patched, CFG(red, blue, cfg), x_t, pipe.scheduler.timesteps), wanted, atol=1e-4, rtol=1e-4)
