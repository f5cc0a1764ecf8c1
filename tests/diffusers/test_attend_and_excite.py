"""Attend-and-Excite: the same picture as the pipeline's over a whole run, repeated steps among them."""

from __future__ import annotations

import pytest
from diffusers import StableDiffusionAttendAndExcitePipeline

from diffusion.guidance import CFG
from diffusion.text import token_indices
from nodes.attend_and_excite import AttendAndExcite

STEPS, RATE = 5, 5.0
MET = 0.04  # a share of looks that a few moves reach
pytestmark = pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning")


@pytest.fixture
def pipe(pipeline):
    return pipeline(StableDiffusionAttendAndExcitePipeline, requires_safety_checker=False)


def theirs(pipe, red, x_t, thresholds):
    (tokens,) = red.entries[0].tokens
    indices = [i for word in ("red", "cat") for i in token_indices(tokens, word)]
    told = {"negative_prompt": "a blue dog", "guidance_scale": 3.0, "num_inference_steps": STEPS, "latents": x_t}
    settings = {"thresholds": thresholds, "max_iter_to_alter": 3, "scale_factor": RATE, "attn_res": (4, 4)}
    return pipe("a red cat", indices, **told, **settings, height=64, width=64, output_type="latent").images


def compared(ctx, model, guidance, walk, x_t, pipe, wanted, thresholds):
    """The greatest difference from theirs, as a share of how far the technique moves the picture."""
    text = ", ".join(f"{step}: {share}" for step, share in thresholds.items())
    patched = AttendAndExcite(model=model, words="red, cat", rate=RATE, until=3, thresholds=text, cells=2).run(ctx)
    timesteps = pipe.scheduler.timesteps
    moved = (wanted - walk(model, guidance, x_t, timesteps)).abs().max()
    assert moved > 0.01
    return float((walk(patched, guidance, x_t, timesteps) - wanted).abs().max() / moved)


@pytest.mark.parametrize("thresholds", [{}, {0: 0.999}])  # no step is repeated; one is, to the limit of 20
def test_the_picture_is_theirs(ctx, model, red, blue, walk, x_t, pipe, thresholds):
    wanted = theirs(pipe, red, x_t, thresholds)
    assert compared(ctx, model, CFG(red, blue, 3.0), walk, x_t, pipe, wanted, thresholds) < 0.01


def test_their_repeated_step_goes_once_more_than_the_paper(ctx, model, red, blue, walk, x_t, pipe, monkeypatch):
    """Algorithm 1 moves the state until the loss is met and then once; theirs looks at the loss from before each move: twice."""
    thresholds, counted = {0: MET}, []
    wanted = theirs(pipe, red, x_t, thresholds)
    assert compared(ctx, model, CFG(red, blue, 3.0), walk, x_t, pipe, wanted, thresholds) > 0.02

    def until_met(latents, indices, loss, threshold, text_embeddings, step_size, t):
        while True:
            latents = latents.clone().detach().requires_grad_(True)
            pipe.unet(latents, t, encoder_hidden_states=text_embeddings)
            loss = pipe._compute_loss(most := pipe._aggregate_and_get_max_attention_per_token(indices))
            if loss <= 1 - threshold:
                return loss, latents, most
            latents = pipe._update_latent(latents, loss, step_size)
            counted.append(loss.item())

    monkeypatch.setattr(pipe, "_perform_iterative_refinement_step", until_met)
    wanted = theirs(pipe, red, x_t, thresholds)
    assert 0 < len(counted) < 20
    assert compared(ctx, model, CFG(red, blue, 3.0), walk, x_t, pipe, wanted, thresholds) < 0.01
