"""Mutual self-attention: whose keys and values are read where and when, and that it leaves everything else alone."""

from __future__ import annotations

import pytest
import torch

from diffusion.guidance import CFG
from diffusion.patch import AttentionPatch
from diffusion.sample import sample
from diffusion.session import open_session
from diffusion.values import Area, Guider, Latent, Mask, Noise, Sampler, Sigmas
from graph_engine.errors import GraphError
from nodes.masactrl import MasaCtrl, same_side
from nodes.source_and_target import SourceAndTarget

LEVELS = Sigmas(torch.tensor([12.0, 6.0, 2.0, 0.5, 0.0]))


@pytest.fixture
def start(ctx, red, blue):
    return SourceAndTarget(samples=Latent(torch.zeros(1, 4, 8, 8)), source=red, target=blue).run(ctx)


def run(model, start, negative, device, samples=()):
    guider = Guider(model, CFG(start.positive, negative, 3.0))
    return sample(guider, Noise(3), Sampler.of("euler"), LEVELS, start.latent, device, samples=samples)[0].x


class Watch(AttentionPatch):
    def __init__(self):
        self.calls = []

    def at_site(self, site):
        return not site.cross

    def __call__(self, call, next):
        self.calls.append(call)
        return next(call)


def test_targets_read_the_sources_keys_and_values_from_a_step_and_a_layer_on(ctx, model, start, blue, device):
    watch = Watch()
    run(MasaCtrl(model=model.patched(watch), step=2, layer=2).run(ctx), start, blue, device)
    layers = {site: i for i, site in enumerate(dict.fromkeys(call.site.name for call in watch.calls))}
    assert len(layers) > 3
    for call in (c for c in watch.calls if c.step.index > 0):  # rows: positive source and target, negative source and target
        shared = call.step.index >= 2 and layers[call.site.name] >= 2
        for x in (call.k, call.v):
            assert torch.equal(x[1], x[0]) == shared
        assert not torch.equal(call.q[1], call.q[0])


def test_equal_prompts_are_the_source_bit_for_bit(ctx, model, red, blue, device):
    same = SourceAndTarget(samples=Latent(torch.zeros(1, 4, 8, 8)), source=red, target=red).run(ctx)
    edited = run(MasaCtrl(model=model, step=0, layer=0).run(ctx), same, blue, device)
    assert torch.equal(edited[1], edited[0])
    assert torch.equal(edited, run(model, same, blue, device))


def test_the_source_is_untouched_a_late_step_is_plain_and_nothing_stays_behind(ctx, model, start, blue, device):
    plain = run(model, start, blue, device)
    edited = run(MasaCtrl(model=model, step=0, layer=0).run(ctx), start, blue, device)
    assert torch.equal(edited[0], plain[0])
    assert not torch.allclose(edited[1], plain[1], atol=1e-2)
    assert torch.equal(run(MasaCtrl(model=model, step=99).run(ctx), start, blue, device), plain)
    assert torch.equal(run(model, start, blue, device), plain)


def test_batch_mates_without_a_part_in_it_stay_as_they_are(ctx, model, red, blue, device):
    pair = SourceAndTarget(samples=Latent(torch.zeros(1, 4, 8, 8)), source=red, target=blue).run(ctx)
    three = SourceAndTarget(samples=Latent(torch.zeros(1, 4, 8, 8)), source=pair.positive, target=red).run(ctx)
    masa = MasaCtrl(model=model, step=0, layer=0).run(ctx)
    named = run(masa, three, blue, device, samples=("source", "target"))
    torch.testing.assert_close(named[:2], run(masa, pair, blue, device), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(named[2], run(model, three, blue, device)[2], atol=1e-4, rtol=1e-4)
    everybody = run(masa, three, blue, device)
    torch.testing.assert_close(everybody[:2], named[:2], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(run(masa, pair, blue, device)[1], run(model, pair, blue, device)[1], atol=1e-2)


def test_with_masks_objects_look_at_objects_and_ground_at_ground(ctx, model, start, blue, device):
    source, target = torch.zeros(1, 8, 8), torch.zeros(1, 8, 8)
    source[..., :4], target[..., 4:] = 1, 1
    bias = same_side(source, target, (4, 4)).reshape(4, 4, 4, 4)  # query rows, columns, key rows, columns
    assert (bias[:, 2:, :, :2] == 0).all()
    assert (bias[:, 2:, :, 2:] == -torch.inf).all()
    assert (bias[:, :2, :, 2:] == 0).all()
    assert same_side(torch.zeros(1, 8, 8), target, (4, 4)) is None  # no object to look at
    watch = Watch()
    masked = MasaCtrl(model=model.patched(watch), step=0, layer=0, mask=Mask(source), target_mask=Mask(target)).run(ctx)
    edited = run(masked, start, blue, device)
    assert edited.isfinite().all()
    assert all((call.bias[[0, 2]] == 0).all() and call.bias[[1, 3]].isinf().any() for call in watch.calls)
    assert torch.equal(edited[0], run(model, start, blue, device)[0])
    with pytest.raises(GraphError, match="mask: the object in the source is wanted"):
        MasaCtrl(model=model, target_mask=Mask(target)).run(ctx)


def test_a_layer_that_is_not_there_and_a_single_picture_are_refused(ctx, model, start, red, blue, device):
    with (
        pytest.raises(ValueError, match="layer: -7 to 6 is wanted by this model, 9 given"),
        open_session(MasaCtrl(model=model, layer=9).run(ctx), CFG(red, blue, 2.0), device),
    ):
        pass
    one = SourceAndTarget.Out(Latent(torch.zeros(1, 4, 8, 8)), red)
    with pytest.raises(ValueError, match="one picture given; use SourceAndTarget"):
        run(MasaCtrl(model=model, step=0, layer=0).run(ctx), one, blue, device)


def test_with_masks_it_wants_prompts_for_the_whole_picture(ctx, model, start, blue, device):
    half = start._replace(positive=start.positive.map(area=Area(8, 4, 0, 4)))
    assert run(MasaCtrl(model=model, step=0, layer=0).run(ctx), half, blue, device).isfinite().all()
    with pytest.raises(GraphError, match="mask: with one, prompts for the whole picture are wanted, and these hold in an area"):
        run(MasaCtrl(model=model, step=0, layer=0, mask=Mask(torch.eye(8)[None])).run(ctx), half, blue, device)
