"""Training InstructPix2Pix: it learns, it can be repeated, it can be stopped, and the model that was given stays as it was."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import toybox
from diffusion.guidance import Conditional
from diffusion.loading import open_checkpoint, open_unet
from diffusion.session import open_session
from diffusion.text import encode as encode_text
from diffusion.training import noise_loss
from diffusion.vae import encode
from diffusion.values import Image
from diffusion.widen import further_channels
from graph_engine.context import Context
from graph_engine.errors import Cancelled, NodeError
from graph_engine.files import Folders
from nodes.instruct_pix2pix import InstructPix2PixGuider
from nodes.load import CheckpointLoaderSimple
from nodes.save_models import ModelSave
from nodes.toybox_pairs import ToyboxEditPairs
from nodes.train_instruct import TrainInstruct, shown

SHORT = {"steps": 12, "batch": 2, "levels": 2, "learning_rate": 0.002, "seed": 4}
X = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)) * 3


def pictures(seed, n=3):
    return Image(torch.rand(n, 64, 64, 3, generator=torch.Generator().manual_seed(seed)))


@pytest.fixture
def train(model, clip, vae):
    given = {"model": model, "clip": clip, "vae": vae, "before": pictures(0), "after": pictures(1), "instructions": "red\ncat\nblue dog"}
    return lambda **changed: TrainInstruct(**given | SHORT | changed)


def held_out(model, clip, vae, before, after, line, device):
    """The loss on noise that was not trained on, shown the picture and told the line, for the first of the pictures."""
    told = encode_text(clip, line, device).map(concat_latent=encode(vae, before, device).x[:1])
    x0 = encode(vae, after, device).x[:1] * 0.18215
    with open_session(model, Conditional(told), device, shape=x0.shape) as net, torch.no_grad():
        return noise_loss(net, told, x0, 16, torch.Generator().manual_seed(99)).item()


def denoised(model, red, device, shown=None, x=X):
    with open_session(model, Conditional(red.map(concat_latent=shown)), device) as net, torch.no_grad():
        return net.denoise(x, 2.0)


@pytest.mark.parametrize("rank", [0, 4])
def test_the_loss_falls_the_picture_is_looked_at_and_the_given_model_stays(ctx, train, model, clip, vae, red, rank):
    before, device = denoised(model, red, ctx.device), ctx.device
    start, learned = train(steps=0).run(ctx), train(rank=rank).run(ctx)
    pair = (clip, vae, pictures(0), pictures(1), "red", device)
    assert further_channels(learned.model, device) == 4
    assert held_out(learned.model, *pair) < 0.98 * held_out(start.model, *pair)
    picture = encode(vae, pictures(0, 1), device).x
    assert not torch.equal(denoised(learned.model, red, device, picture), denoised(learned.model, red, device))
    assert torch.equal(denoised(model, red, device), before)
    assert further_channels(model, device) == 0


def test_without_steps_it_is_the_base_model(ctx, train, model, vae, red):
    start = train(steps=0).run(ctx)
    picture = encode(vae, pictures(0, 1), ctx.device).x
    assert start.loss == 0
    torch.testing.assert_close(denoised(start.model, red, ctx.device, picture), denoised(model, red, ctx.device), atol=1e-6, rtol=1e-6)


def test_only_weights_of_layers_change_and_the_first_ones_bias_does_not(ctx, train, model, red):
    learned = train(rank=4).run(ctx).model
    with open_session(model, Conditional(red), ctx.device) as net:
        plain = {name: parameter.clone() for name, parameter in net.unet.named_parameters()}
    with open_session(learned, Conditional(red), ctx.device) as net:
        tuned = dict(net.unet.named_parameters())
        changed = {name for name, old in plain.items() if tuned[name].shape != old.shape or not torch.equal(tuned[name], old)}
        assert tuned["conv_in.weight"][:, 4:].abs().max() > 0
    assert "conv_in.weight" in changed
    assert any(".to_q" in name for name in changed)
    assert all(name.endswith(".weight") for name in changed)
    assert not any("norm" in name or "resnets" in name for name in changed)


def test_a_seed_is_a_result_and_training_goes_on_from_a_model_that_sees(ctx, train, model, red, vae):
    picture = encode(vae, pictures(0, 1), ctx.device).x
    first, again, other = (train(seed=seed).run(ctx) for seed in (4, 4, 5))
    seen = [denoised(each.model, red, ctx.device, picture) for each in (first, again, other)]
    assert first.loss == again.loss
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    further = train(model=first.model, steps=4).run(ctx).model
    assert further_channels(further, ctx.device) == 4
    assert not torch.equal(denoised(further, red, ctx.device, picture), seen[0])
    assert torch.equal(denoised(first.model, red, ctx.device, picture), seen[0])


def test_words_and_picture_are_left_out_as_often_as_they_should(red, blue):
    before, n = torch.ones(1, 4, 2, 2), 20_000
    told = shown([red.entries[0]], blue.entries[0], before, [0] * n, 0.05, torch.Generator().manual_seed(0)).entries[0]
    mute = (told.embeds == blue.entries[0].embeds).flatten(1).all(1)
    blind = ~told.concat_latent.flatten(1).any(1)
    for share in (mute & ~blind, mute & blind, ~mute & blind):
        assert share.float().mean().item() == pytest.approx(0.05, abs=0.006)


def test_progress_is_reported_and_a_stop_leaves_nothing_behind(ctx, train, model, red, device, folders):
    class Listener:
        def __init__(self):
            self.steps = []

        def check(self):
            if len(self.steps) == 3:
                raise Cancelled("stopped")

        def step(self, step, steps, preview):
            self.steps.append((step, steps))

    before, listener = denoised(model, red, device), Listener()
    watched = Context(folders=folders, device=lambda: device, watch=listener)
    with pytest.raises(Cancelled):
        train().run(watched)
    assert listener.steps == [(1, 12), (2, 12), (3, 12)]
    assert torch.equal(denoised(model, red, device), before)


def test_what_does_not_fit_is_named(ctx, train):
    for changed, said in (
        ({"after": pictures(1, 2)}, "after: as many pictures of the same size as before are wanted, 3 of 64 × 64; 2 of 64 × 64 given"),
        ({"instructions": "red\ncat"}, "instructions: 1 line or 3 are wanted, one for each pair; 2 given"),
        ({"instructions": " \n"}, "instructions: 1 line or 3 are wanted, one for each pair; 0 given"),
        ({"instructions": "red " * 20}, "instructions: a line that fits one chunk"),
    ):
        with pytest.raises(NodeError, match=said):
            train(**changed).run(ctx)


def test_what_was_learned_is_saved_and_loads_as_a_model_that_sees(device, tmp_path):
    spec = importlib.util.spec_from_file_location("make_checkpoint", Path(__file__).parents[1] / "tools" / "make_checkpoint.py")
    tool = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    (tmp_path / "models/checkpoints").mkdir(parents=True)
    save_file(tool.make("sd15", dtype=torch.float32), tmp_path / "models/checkpoints/plain.safetensors")
    ctx = Context.silent(device, Folders(tmp_path))
    model, clip, vae = CheckpointLoaderSimple(ckpt_name="plain.safetensors").run(ctx)
    before, after = (Image(pictures(seed, 1).pixels[:, :32, :32]) for seed in (0, 1))
    given = {"before": before, "after": after, "instructions": "make it red", "learning_rate": 0.01}
    learned = TrainInstruct(model=model, clip=clip, vae=vae, **given, steps=1, batch=1, levels=1).run(ctx).model
    ModelSave(model=learned, filename_prefix="learned").run(ctx)
    again = open_unet(ctx.artifacts[-1].path)
    told = encode_text(clip, "make it red", device)
    assert further_channels(again, device) == 4
    shown = encode(vae, before, device).x
    results = [denoised(each, told, device, shown, X[..., :4, :4]) for each in (learned, again, model)]
    assert torch.equal(results[0], results[1])
    assert not torch.allclose(results[0], results[2], atol=1e-3)


def test_from_pairs_of_the_toybox_to_an_edit(ctx, device):
    model, clip, vae = open_checkpoint(toybox.WEIGHTS)
    pairs = ToyboxEditPairs(seed=100_000, count=4, attribute="color").run(ctx)
    given = {"before": pairs.before, "after": pairs.after, "instructions": pairs.instructions}
    learned = TrainInstruct(model=model, clip=clip, vae=vae, **given, steps=2, batch=2, levels=1, rank=4).run(ctx)
    assert 0 < learned.loss < 0.2
    told, nothing = (encode_text(clip, text, device) for text in (pairs.instructions.split("\n")[0], ""))
    seen = {"instruction": told, "nothing": nothing, "vae": vae, "pixels": Image(pairs.before.pixels[:1])}
    guider = InstructPix2PixGuider(model=learned.model, **seen).run(ctx).guider
    with open_session(guider.model, guider.guidance, device) as net, torch.no_grad():
        assert torch.isfinite(net.denoise(torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)), 1.0)).all()
