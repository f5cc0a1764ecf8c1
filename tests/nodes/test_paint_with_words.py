"""Paint with words: the formula written down anew, its laws, and regions that swap what a toybox picture shows where."""

from __future__ import annotations

import math

import pytest
import torch

import toybox
from diffusion.guidance import CFG
from diffusion.loading import open_checkpoint
from diffusion.pair import stacked
from diffusion.patch import AttentionPatch
from diffusion.session import open_session
from diffusion.text import encode
from diffusion.vae import decode
from diffusion.values import Latent, Mask
from graph_engine.errors import GraphError
from nodes.paint_with_words import PaintedWord, PaintWithWords
from nodes.sample import KSampler
from toybox.probe import Probe

SIGMA = 2.5


def noise(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def left():
    mask = torch.zeros(1, 64, 64)
    mask[..., :32] = 1
    return Mask(mask)


class Watch(AttentionPatch):
    """Keeps the calls that reach it."""

    def __init__(self):
        self.calls = []

    def at_site(self, site):
        return site.cross

    def __call__(self, call, next):
        self.calls.append((call, next(call)))
        return self.calls[-1][1]


def denoised(model, positive, negative, device, x):
    with open_session(model, CFG(positive, negative, 3.0), device) as net, torch.no_grad():
        return net.denoise(x, SIGMA)


@pytest.mark.parametrize("statistic", ["max", "std"])
@pytest.mark.parametrize("fade", ["log(1 + sigma)", "log(1 + sigma^2)"])
def test_the_logits_of_the_words_rise_inside_the_region_as_the_paper_says(ctx, model, red, blue, device, left, statistic, fade):
    watch, x = Watch(), noise(1, 2, 4, 8, 8)
    painted = PaintWithWords(conditioning=red, mask=left, words="red", weight=0.7, statistic=statistic, fade=fade).run(ctx)
    entry = painted.entries[0]
    (column,) = entry.patches[0].columns[0]
    outermost = painted.map(patches=(watch, *entry.patches))  # the watch is inside of the painted word
    denoised(model, outermost, blue, device, x)
    assert {call.site.size for call, _ in watch.calls} == {(8, 8), (4, 4)}
    for call, out in watch.calls:
        raw = call.q @ call.k.transpose(-1, -2)
        root = math.sqrt(call.q.shape[-1])
        w = 0.7 * math.log(1 + (SIGMA if fade == "log(1 + sigma)" else SIGMA**2))
        for row in range(2):
            for head in range(raw.shape[1]):
                a = torch.zeros(raw.shape[2:]).reshape(*call.site.size, -1)
                a[:, : call.site.size[1] // 2, column] = 1
                top = raw[row, head].max() if statistic == "max" else raw[row, head].std()
                probs = ((raw[row, head] + w * top * a.flatten(0, 1)) / root).softmax(-1)
                torch.testing.assert_close(out[row, head], probs @ call.v[row, head], atol=1e-5, rtol=1e-4)


def test_weight_0_is_the_plain_prompt_and_the_negative_is_never_painted(ctx, model, red, blue, device, left):
    assert PaintWithWords(conditioning=red, mask=left, words="red", weight=0.0).run(ctx) is red
    x = noise(1, 1, 4, 8, 8)
    painted = PaintWithWords(conditioning=red, mask=left, words="red", weight=1.0).run(ctx)
    plain = denoised(model, red, blue, device, x)
    assert not torch.allclose(denoised(model, painted, blue, device, x), plain, atol=1e-3)
    assert torch.equal(denoised(model, red, blue, device, x), plain)  # nothing stays behind
    with open_session(model, CFG(painted, blue, 3.0), device) as net, torch.no_grad():
        preds = net.denoise_all(x, SIGMA)[1]
    with open_session(model, CFG(red, blue, 3.0), device) as net, torch.no_grad():
        torch.testing.assert_close(net.denoise_all(x, SIGMA)[1]["negative"], preds["negative"], atol=1e-5, rtol=1e-5)


def test_an_empty_region_changes_nothing_and_regions_add_up(ctx, model, red, blue, device, left):
    x = noise(1, 1, 4, 8, 8)
    nowhere = PaintWithWords(conditioning=red, mask=Mask(torch.zeros(1, 8, 8)), words="red", weight=1.0).run(ctx)
    torch.testing.assert_close(denoised(model, nowhere, blue, device, x), denoised(model, red, blue, device, x), atol=1e-5, rtol=1e-5)
    halves = red
    for _ in range(2):
        halves = PaintWithWords(conditioning=halves, mask=left, words="red", weight=0.5).run(ctx)
    whole = PaintWithWords(conditioning=red, mask=left, words="red", weight=1.0).run(ctx)
    torch.testing.assert_close(denoised(model, halves, blue, device, x), denoised(model, whole, blue, device, x), atol=1e-4, rtol=1e-4)


def test_batch_mates_change_no_picture(ctx, model, red, blue, device, left):
    painted = PaintWithWords(conditioning=red, mask=left, words="a red cat", weight=1.0).run(ctx)
    one, mate = noise(1, 1, 4, 8, 8), noise(2, 1, 4, 8, 8) * 20
    alone = denoised(model, painted, blue, device, one)
    torch.testing.assert_close(denoised(model, painted, blue, device, torch.cat([mate, one]))[1:], alone, atol=1e-4, rtol=1e-4)


def test_beside_a_source_only_rows_that_have_the_words_are_painted(ctx, model, red, blue, clip, device, left):
    x, green = noise(1, 2, 4, 8, 8), encode(clip, "a green cat", device)
    pair = stacked(red, green)
    painted = PaintWithWords(conditioning=pair, mask=left, words="green", weight=1.0).run(ctx)
    alone = PaintWithWords(conditioning=green, mask=left, words="green", weight=1.0).run(ctx)
    both, plain = denoised(model, painted, blue, device, x), denoised(model, pair, blue, device, x)
    torch.testing.assert_close(both[:1], plain[:1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(both[1:], denoised(model, alone, blue, device, x[1:]), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(both[1], plain[1], atol=1e-3)


def test_a_phrase_is_looked_for_in_the_prompt(ctx, red, left):
    columns = PaintWithWords(conditioning=red, mask=left, words="red cat").run(ctx).entries[0].patches[0].columns
    assert [len(row) for row in columns] == [2]
    assert isinstance(PaintWithWords(conditioning=red, mask=left, words="cat").run(ctx).entries[0].patches[0], PaintedWord)
    with pytest.raises(ValueError, match="words: the prompt 'a red cat' has 'green' 0 times"):
        PaintWithWords(conditioning=red, mask=left, words="green").run(ctx)
    with pytest.raises(ValueError, match="occurrence 1"):
        PaintWithWords(conditioning=red, mask=left, words="red", occurrence=1).run(ctx)
    with pytest.raises(GraphError, match="does not know which words"):
        PaintWithWords(conditioning=red.map(tokens=()), mask=left, words="red").run(ctx)


def test_objects_stand_where_their_words_are_painted(ctx, device):
    model, clip, vae = open_checkpoint(toybox.WEIGHTS)
    prompt, negative = (encode(clip, text, device) for text in ("a red circle and a blue square on a white plain background", ""))
    spot = torch.zeros(1, 128, 128)
    spot[:, 40:88, 8:56] = 1
    found = {0.0: 0, 0.2: 0}
    for weight in found:
        for seed, (here, there) in enumerate([(spot, spot.flip(2)), (spot.flip(2), spot)]):
            painted = PaintWithWords(conditioning=prompt, mask=Mask(here), words="red circle", weight=weight).run(ctx)
            painted = PaintWithWords(conditioning=painted, mask=Mask(there), words="blue square", weight=weight).run(ctx)
            settings = {"steps": 10, "cfg": 4.0, "sampler_name": "dpmpp_2m", "scheduler": "karras"}
            start = Latent(torch.zeros(2, 4, 16, 16))
            out = KSampler(model=model, seed=seed, positive=painted, negative=negative, latent_image=start, **settings).run(ctx)
            for reading in Probe.load().read(decode(vae, out, device).pixels):
                for mask, color in ((here, "red"), (there, "blue")):
                    side = "left" if mask is spot else "right"
                    found[weight] += any(thing.color.label == color and side in thing.position.label for thing in reading.objects)
    assert found[0.2] >= 7  # of 8
    assert found[0.0] <= 6
