"""Imagic: the loss falls, the walk has its ends where it should, and the model that was tuned is the model that was given."""

from __future__ import annotations

import pytest
import torch

from diffusion.guidance import Conditional
from diffusion.lora.apply import apply_lora
from diffusion.session import open_session
from diffusion.training import noise_loss, trained
from diffusion.values import Conditioning, Latent
from graph_engine.errors import NodeError
from nodes.imagic import FinetuneOnImage, InterpolateEmbeddings, OptimizeEmbedding
from nodes.sample import KSampler

PICTURE = Latent(torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3)) * 3, format="sd1")
SHORT = {"steps": 12, "batch": 2, "learning_rate": 0.01}


def held_out(model, conditioning, device) -> float:
    x0 = PICTURE.x * 0.18215
    with open_session(model, Conditional(conditioning), device, shape=x0.shape) as net, torch.no_grad():
        return noise_loss(net, conditioning, x0, 16, torch.Generator().manual_seed(99)).item()


def plain(model, red, empty_seed=1):
    start = Latent(torch.zeros(1, 4, 8, 8), format="sd1")
    settings = {"seed": empty_seed, "steps": 3, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    return KSampler(model=model, positive=red, negative=red, latent_image=start, **settings)


def test_the_loss_falls_on_noise_that_was_not_trained_on_and_the_model_stays(ctx, model, red):
    before = plain(model, red).run(ctx).x
    first = held_out(model, red, ctx.device)
    optimised = OptimizeEmbedding(model=model, latent=PICTURE, conditioning=red, **SHORT).run(ctx).conditioning
    second = held_out(model, optimised, ctx.device)
    assert second < first
    tuned = FinetuneOnImage(model=model, latent=PICTURE, conditioning=optimised, rank=4, **SHORT).run(ctx)
    assert held_out(tuned.model, optimised, ctx.device) < 0.98 * second
    assert held_out(model, optimised, ctx.device) == second
    assert torch.equal(plain(model, red).run(ctx).x, before)
    off, _, _ = apply_lora(tuned.lora, model, None, 0.0, 0.0, ctx.device)
    assert torch.equal(plain(off, red).run(ctx).x, before)


def test_a_full_change_also_reaches_convolutions(ctx, model, red):
    tuned = FinetuneOnImage(model=model, latent=PICTURE, conditioning=red, rank=0, **SHORT | {"learning_rate": 0.001}).run(ctx)
    names = {module.key for module in tuned.lora.modules}
    assert "conv_in" in names
    assert any(name.endswith("to_q") for name in names)
    assert held_out(tuned.model, red, ctx.device) < held_out(model, red, ctx.device)


@pytest.mark.parametrize("rank", [0, 4])
def test_a_change_that_has_not_begun_to_learn_does_nothing(ctx, model, red, rank):
    with open_session(model, Conditional(red), ctx.device) as net, torch.no_grad():
        before = net.predict(red, PICTURE.x, 1.0)
        with trained(net, rank, torch.Generator().manual_seed(0)) as layers:
            assert layers
            assert torch.equal(net.predict(red, PICTURE.x, 1.0), before)
            for layer in layers:
                for parameter in layer.parameters:
                    parameter.add_(0.1)
            assert not torch.allclose(net.predict(red, PICTURE.x, 1.0), before)
        assert torch.equal(net.predict(red, PICTURE.x, 1.0), before)


def test_the_change_as_a_patch_is_the_change_that_was_trained(ctx, model, red):
    tuned = FinetuneOnImage(model=model, latent=PICTURE, conditioning=red, rank=4, **SHORT).run(ctx)
    again = FinetuneOnImage(model=model, latent=PICTURE, conditioning=red, rank=4, **SHORT).run(ctx)
    assert tuned.loss == again.loss  # a seed is a result
    assert held_out(tuned.model, red, ctx.device) < tuned.loss * 1.5


def test_the_walk_begins_at_the_picture_and_passes_the_text(red, blue, ctx):
    walk = InterpolateEmbeddings(target=red, optimised=blue, first=0.0, last=1.5, count=4).run(ctx)
    at = [each.entries[0].embeds for each in walk]
    start, end = blue.entries[0].embeds, red.entries[0].embeds
    assert torch.equal(at[0], start)
    for eta, each in zip((0.5, 1.0, 1.5), at[1:], strict=True):
        torch.testing.assert_close(each, start + eta * (end - start))
    (alone,) = InterpolateEmbeddings(target=red, optimised=blue, first=0.0, last=1.0, count=1).run(ctx)
    torch.testing.assert_close(alone.entries[0].embeds, end)


def test_what_does_not_fit_is_named(ctx, model, red, blue):
    two = Conditioning((*red.entries, *blue.entries))
    with pytest.raises(NodeError, match="conditioning: one entry is wanted, 2 given"):
        OptimizeEmbedding(model=model, latent=PICTURE, conditioning=two, **SHORT).run(ctx)
    with pytest.raises(NodeError, match="latent: one picture is wanted, 2 given"):
        FinetuneOnImage(model=model, latent=Latent(PICTURE.x.repeat(2, 1, 1, 1), format="sd1"), conditioning=red, **SHORT).run(ctx)
