"""Plug-and-Play: which features and maps targets take from the source and when, and that it leaves everything else alone."""

from __future__ import annotations

import pytest
import torch

from diffusion.guidance import CFG
from diffusion.patch import AttentionPatch, FeaturePatch
from diffusion.sample import sample
from diffusion.session import open_session
from diffusion.values import Guider, Latent, Noise, Sampler, Sigmas, Trajectory
from nodes.plug_and_play import PlugAndPlay
from nodes.source_and_target import SourceAndTarget

LEVELS = Sigmas(torch.tensor([12.0, 6.0, 2.0, 0.5, 0.0]))
ALL = {"layer": 1, "attention_from": 0, "features_until": 0.75, "attention_until": 0.5}


@pytest.fixture
def start(ctx, red, blue):
    return SourceAndTarget(samples=Latent(torch.zeros(1, 4, 8, 8)), source=red, target=blue).run(ctx)


def run(model, start, negative, device, samples=(), seed=3):
    guider = Guider(model, CFG(start.positive, negative, 3.0))
    return sample(guider, Noise(seed), Sampler.of("euler"), LEVELS, start.latent, device, samples=samples)[0].x


class Watch(AttentionPatch, FeaturePatch):
    def __init__(self):
        self.outs, self.calls = [], []

    def at_block(self, block):
        return block.place == "up" and block.kind in ("resnet", "attention")

    def block(self, call, next):
        out = next(call)
        self.outs.append((call.block.name, call.step.index, out))
        return out

    def at_site(self, site):
        return not site.cross

    def __call__(self, call, next):
        self.calls.append(call)
        return next(call)


def test_features_of_one_block_and_maps_of_the_decoder_come_from_the_source_for_their_share_of_the_steps(ctx, model, start, blue, device):
    watch = Watch()
    patched = PlugAndPlay(model=model, **ALL).run(ctx)
    inside = patched.patched(watch)  # outermost at the blocks: sees what the injection gives
    run(inside, start, blue, device)
    names = list(dict.fromkeys(name for name, _, _ in watch.outs if "resnet" in name))
    for name, step, out in watch.outs:
        if step > 0:
            assert (torch.equal(out[1], out[0]) and torch.equal(out[3], out[2])) == (name == names[1] and step < 3)
    innermost = Watch()
    run(PlugAndPlay(model=model.patched(innermost), **ALL).run(ctx), start, blue, device)
    for call in (c for c in innermost.calls if c.step.index > 0):
        after_features = call.site.place == "up" and call.site.scale == 2 and call.step.index < 3  # right behind the injected block
        taken = call.site.place == "up" and call.step.index < 2
        assert torch.equal(call.q[1], call.q[0]) == torch.equal(call.k[1], call.k[0])
        assert torch.equal(call.q[1], call.q[0]) == taken or after_features


def test_equal_prompts_are_the_source_and_shares_of_0_are_plain(ctx, model, red, blue, start, device):
    same = SourceAndTarget(samples=Latent(torch.zeros(1, 4, 8, 8)), source=red, target=red).run(ctx)
    edited = run(PlugAndPlay(model=model, **ALL).run(ctx), same, blue, device)
    assert torch.equal(edited[1], edited[0])
    assert torch.equal(edited, run(model, same, blue, device))
    assert PlugAndPlay(model=model, **ALL | {"features_until": 0.0, "attention_until": 0.0}).run(ctx) is model
    plain = run(model, start, blue, device)
    edited = run(PlugAndPlay(model=model, **ALL).run(ctx), start, blue, device)
    assert torch.equal(edited[0], plain[0])
    assert not torch.allclose(edited[1], plain[1], atol=1e-2)
    assert torch.equal(run(model, start, blue, device), plain)


def test_only_named_targets_take_part(ctx, model, red, blue, start, device):
    three = SourceAndTarget(samples=Latent(torch.zeros(1, 4, 8, 8)), source=start.positive, target=red).run(ctx)
    edited = run(PlugAndPlay(model=model, **ALL).run(ctx), three, blue, device, samples=("source", "target"))
    torch.testing.assert_close(edited[:2], run(PlugAndPlay(model=model, **ALL).run(ctx), start, blue, device), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(edited[2], run(model, three, blue, device)[2], atol=1e-4, rtol=1e-4)


def test_a_real_picture_comes_in_as_a_trajectory(ctx, model, start, blue, device):
    levels = LEVELS.values.flip(0)
    path = Trajectory(torch.randn(5, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * (1 + levels.view(-1, 1, 1, 1, 1)), levels)
    begun = SourceAndTarget.Out(Latent(path.latents[-1].repeat(2, 1, 1, 1) / 0.18215), start.positive)
    edited = run(PlugAndPlay(model=model, trajectory=path, **ALL).run(ctx), begun, blue, device, seed=None)
    torch.testing.assert_close(edited[0] * 0.18215, path.latents[0, 0])
    assert not torch.allclose(edited[1], run(PlugAndPlay(model=model, **ALL).run(ctx), begun, blue, device, seed=None)[1], atol=1e-2)


@pytest.mark.parametrize("field", ["layer", "attention_from"])
def test_what_the_decoder_does_not_have_is_refused(ctx, model, red, blue, device, field):
    patched = PlugAndPlay(model=model, **ALL | {field: 40}).run(ctx)
    with (
        pytest.raises(ValueError, match=rf"{field}: 0 to 3 is wanted by this model's decoder, 40 given"),
        open_session(patched, CFG(red, blue, 2.0), device),
    ):
        pass
