"""pix2pix-zero: the pipeline computes a guided state and goes on from another one; going on from the guided one it gives our picture."""

from __future__ import annotations

import pytest
import torch
from diffusers import StableDiffusionPix2PixZeroPipeline
from diffusers.pipelines.deprecated.stable_diffusion_variants.pipeline_stable_diffusion_pix2pix_zero import (
    Pix2PixZeroAttnProcessor,
    Pix2PixZeroL2Loss,
    prepare_unet,
)

from diffusion.guidance import CFG
from diffusion.pair import stacked
from nodes.pix2pix_zero import CrossAttentionGuidance, EditDirection

STEPS, AMOUNT, SCALE = 4, 5.0, 3.0
SOURCE, TARGET = "a red cat\na cat", "a blue dog\na dog"


@pytest.fixture
def pipe(pipeline):
    parts = {"caption_processor": None, "caption_generator": None, "inverse_scheduler": None, "requires_safety_checker": False}
    return pipeline(StableDiffusionPix2PixZeroPipeline, **parts)


@pytest.fixture
def moved(ctx, clip, red):
    return EditDirection(conditioning=red, clip=clip, source=SOURCE, target=TARGET).run(ctx)


@pytest.fixture
def theirs(pipe, x_t):
    embeds = [pipe.get_embeds(text.split("\n")) for text in (SOURCE, TARGET)]

    def run(amount):
        told = {"source_embeds": embeds[0], "target_embeds": embeds[1], "num_inference_steps": STEPS, "guidance_scale": SCALE}
        return pipe("a red cat", **told, latents=x_t, cross_attention_guidance_amount=amount, output_type="latent").images

    return run


class OfThePrompt(Pix2PixZeroL2Loss):
    """Their loss over the maps of the prompt alone, the second half of the rows."""

    def compute_loss(self, predictions, targets):
        super().compute_loss(predictions.chunk(2)[1], targets.chunk(2)[1])


@torch.no_grad()
def by_hand(pipe, x, empty, source, target, amount, loss_of, guided):
    """Their loops in few lines; `guided`: go on from the state that the gradient moved, instead of the one beside it in the batch."""
    unet, step = prepare_unet(pipe.unet), pipe.scheduler.step
    pipe.scheduler.set_timesteps(STEPS)

    def combined(eps):
        unconditional, conditional = eps.chunk(2)
        return unconditional + SCALE * (conditional - unconditional)

    told, state = torch.cat([empty, source]), x
    for t in pipe.scheduler.timesteps:
        eps = unet(torch.cat([state, state]), t, told, cross_attention_kwargs={"timestep": t}).sample
        state = step(combined(eps), t, state).prev_sample
    told, state = torch.cat([empty, target]), x
    for t in pipe.scheduler.timesteps:
        both, loss = torch.cat([state, state]).requires_grad_(), loss_of()
        with torch.enable_grad():
            unet(both, t, told, cross_attention_kwargs={"timestep": t, "loss": loss})
            (gradient,) = torch.autograd.grad(loss.loss, both)
        both = both.detach() - amount * gradient
        state = both.chunk(2)[1 if guided else 0]
        both = torch.cat([state, state]) if guided else both
        eps = unet(both, t, told, cross_attention_kwargs={"timestep": None}).sample
        state = step(combined(eps), t, state).prev_sample
    return state


def test_the_direction_between_sentences_is_theirs(pipe, red, moved):
    away = pipe.construct_direction(*(pipe.get_embeds(text.split("\n")) for text in (SOURCE, TARGET)))
    torch.testing.assert_close(moved.entries[0].embeds, red.entries[0].embeds + away, atol=1e-4, rtol=1e-4)


def test_without_guidance_the_picture_is_theirs(model, red, empty, moved, walk, x_t, pipe, theirs):
    wanted = theirs(0.0)
    ours = walk(model, CFG(stacked(red, moved), empty, SCALE), x_t.repeat(2, 1, 1, 1), pipe.scheduler.timesteps)
    torch.testing.assert_close(ours[1:], wanted, atol=2e-4, rtol=2e-4)


def test_they_drop_the_guided_state_and_with_it_kept_the_picture_is_ours(ctx, model, red, empty, moved, walk, x_t, pipe, theirs):
    """The gradient moves the state of both rows, each by its own; theirs steps from the empty prompt's, which hardly moves.

    The mean of their loss is over both rows, ours over the prompt's: with ours, AMOUNT is what it says.
    """
    wanted, plain = theirs(AMOUNT), theirs(0.0)
    embeds = [each.entries[0].embeds for each in (empty, red, moved)]
    assert any(isinstance(p, Pix2PixZeroAttnProcessor) for p in pipe.unet.attn_processors.values())
    torch.testing.assert_close(by_hand(pipe, x_t, *embeds, AMOUNT, Pix2PixZeroL2Loss, guided=False), wanted, atol=1e-4, rtol=1e-4)
    patched = CrossAttentionGuidance(model=model, amount=AMOUNT).run(ctx)
    ours = walk(patched, CFG(stacked(red, moved), empty, SCALE), x_t.repeat(2, 1, 1, 1), pipe.scheduler.timesteps)[1:]
    far = float((ours - plain).abs().max())
    assert float((ours - wanted).abs().max()) > 0.05 * far > 0
    kept = by_hand(pipe, x_t, *embeds, AMOUNT, OfThePrompt, guided=True)
    torch.testing.assert_close(ours, kept, atol=0.01 * far, rtol=0)
    halved = by_hand(pipe, x_t, *embeds, 2 * AMOUNT, Pix2PixZeroL2Loss, guided=True)
    torch.testing.assert_close(halved, kept, atol=0.01 * far, rtol=0)
