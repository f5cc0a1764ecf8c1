"""Local blend: its mask written down anew, its two ends bit for bit, and a ground that stays the source's."""

from __future__ import annotations

import pytest
import torch

from diffusion.guidance import CFG
from diffusion.pair import stacked
from diffusion.patch import AttentionPatch, StepPatch
from diffusion.sample import sample
from diffusion.spacing import sigmas_for
from diffusion.text import encode
from diffusion.values import Area, Guider, Latent, Mask, Noise, Sampler, Sigmas
from graph_engine.errors import NodeError
from nodes.local_blend import LocalBlend, blended, looked_at
from nodes.prompt_to_prompt import AlignPrompts, PromptToPrompt

STEPS = 4
THRESHOLD = 0.9


@pytest.fixture
def positive(clip, device):
    return stacked(encode(clip, "a red cat", device), encode(clip, "a big blue cat", device))


@pytest.fixture
def alignment(ctx, positive):
    return AlignPrompts(positive=positive).run(ctx)


@pytest.fixture
def run(device, blue, positive):
    def sampled(model, sampler="euler", positive=positive, samples=()):
        sigmas = Sigmas(sigmas_for(model.process.table(), "karras", STEPS, 1.0, sampler))
        latent = Latent(torch.zeros(len(positive.entries[0].embeds), 4, 8, 8), batch_index=(0,) * len(positive.entries[0].embeds))
        return sample(Guider(model, CFG(positive, blue, 3.0)), Noise(5), Sampler.of(sampler), sigmas, latent, device, samples=samples)[0].x

    return sampled


def test_a_map_opens_where_it_is_above_a_share_of_its_own_greatest():
    maps = torch.zeros(2, 4, 4)
    maps[0, 0, 0], maps[0, 3, 3] = 1.0, 0.2
    maps[1, 3, 3] = 1e-3  # a faint map counts as much as a strong one
    mask = looked_at(maps, (8, 8), 0.3, pool=False)
    assert mask[0].nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert mask[1].nonzero().tolist() == [[6, 6], [6, 7], [7, 6], [7, 7]]
    wide = looked_at(maps, (4, 4), 0.3)
    assert wide[0].nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert not looked_at(torch.zeros(1, 4, 4), (4, 4), 0.3).any()


def test_blending_takes_exactly_one_of_the_two_at_its_ends():
    x = torch.randn(2, 4, 3, 3) * 1e3
    mask = torch.tensor([[0.0, 1, 0.5]]).expand(3, 3)
    out = blended(x, 0, 1, mask)
    assert torch.equal(out[..., 0], x[0, ..., 0])
    assert torch.equal(out[..., 1], x[1, ..., 1])
    torch.testing.assert_close(out[..., 2], (x[0] + x[1])[..., 2] / 2)


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "euler_ancestral"])
def test_an_empty_mask_keeps_the_sources_latent_and_a_full_one_the_edit_bit_for_bit(ctx, model, alignment, run, sampler):
    p2p = PromptToPrompt(model=model, alignment=alignment).run(ctx)
    plain = run(p2p, sampler)
    words = {"alignment": alignment, "source_words": "cat", "target_words": "cat", "start": 0.0}
    for kept in (
        LocalBlend(model=p2p, **words, threshold=1.0).run(ctx),
        LocalBlend(model=p2p, **words, mask=Mask(torch.zeros(1, 32, 32))).run(ctx),
    ):
        x = run(kept, sampler)
        assert torch.equal(x[1], x[0])
        torch.testing.assert_close(x[0], plain[0], atol=1e-4, rtol=1e-4)
    for free in (
        LocalBlend(model=p2p, **words, threshold=-1.0).run(ctx),
        LocalBlend(model=p2p, **words, mask=Mask(torch.ones(1, 32, 32))).run(ctx),
    ):
        assert torch.equal(run(free, sampler), plain)


class Maps(AttentionPatch):
    """Keeps what probabilities are seen outside of everything."""

    def __init__(self):
        self.kept = []

    def at_site(self, site):
        return site.cross

    def __call__(self, call, next):
        def keep(probs):
            self.kept.append((call.step.index, call.site, probs[call.rows["positive"]].mean(1)))
            return probs

        return next(call.edit_probs(keep))


class States(StepPatch):
    """Keeps what the blend is given after each step."""

    def __init__(self):
        self.kept = []

    def after(self, x, x0, step):
        self.kept.append(x)
        return x


@pytest.mark.parametrize("cells", [0, 1, 2])
def test_the_mask_is_the_papers(ctx, model, alignment, run, cells):
    states, maps = States(), Maps()
    p2p = PromptToPrompt(model=model, alignment=alignment, cross_replace=0.5).run(ctx).patched(states)
    settings = {"source_words": "red", "target_words": "big, blue", "without": "cat", "threshold": THRESHOLD, "start": 0.5, "cells": cells}
    after = States()
    run(LocalBlend(model=p2p, alignment=alignment, **settings).run(ctx).patched(after, maps))
    scale = cells or 1  # the tiny latent is 8 × 8: the finest maps are nearest to 16 × 16
    sums, less = torch.zeros(2, 8 // scale, 8 // scale), torch.zeros(2, 8 // scale, 8 // scale)
    changed = 0
    for step in range(STEPS):
        for _, site, probs in [m for m in maps.kept if m[0] == step and m[1].scale == scale and (cells or m[1].place != "mid")]:
            for row, (words, kept) in enumerate((([2], [3]), ([2, 3], [4]))):
                sums[row] += probs[row][:, words].sum(-1).view(site.size)
                less[row] += probs[row][:, kept].sum(-1).view(site.size)
        if step < 2:
            assert torch.equal(after.kept[step], states.kept[step])
            continue
        big = torch.nn.functional.max_pool2d(sums, 3, 1, 1).repeat_interleave(scale, -1).repeat_interleave(scale, -2)
        small = less.repeat_interleave(scale, -1).repeat_interleave(scale, -2)
        mask = (big / big.amax((1, 2), keepdim=True) > THRESHOLD).any(0) & ~(small / small.amax((1, 2), keepdim=True) > THRESHOLD).any(0)
        wanted = states.kept[step].clone()
        wanted[1] = torch.where(mask, wanted[1], wanted[0])
        assert torch.equal(after.kept[step], wanted)
        changed += int((~mask).sum())
    assert 0 < changed < 2 * 64


def test_a_targets_mask_is_its_own(ctx, model, clip, device, run, positive, alignment):
    settings = {"source_words": "cat", "target_words": "cat", "threshold": 0.6}
    one = run(LocalBlend(model=model, alignment=alignment, **settings).run(ctx))
    three = stacked(positive, encode(clip, "a green cat", device))
    more = AlignPrompts(positive=three).run(ctx)
    x = run(LocalBlend(model=model, alignment=more, **settings).run(ctx), positive=three)
    torch.testing.assert_close(x[:2], one, atol=1e-4, rtol=1e-4)


def test_after_a_run_the_model_is_as_before(ctx, model, alignment, run):
    before = run(model)
    run(LocalBlend(model=model, alignment=alignment, source_words="cat", target_words="cat").run(ctx))
    assert torch.equal(run(model), before)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"source_words": "dog", "target_words": "cat"}, "source_words: the prompt 'a red cat' has 'dog' 0 times"),
        ({"source_words": "cat", "target_words": "red"}, "target_words: the prompt 'a big blue cat' has 'red' 0 times"),
        ({"source_words": "cat", "target_words": "cat", "without": "table"}, "without: the prompt"),
        ({"source_words": "", "target_words": " , "}, "source_words: a word to blend by is wanted"),
    ],
)
def test_words_that_are_not_there_are_told(ctx, model, alignment, words, message):
    with pytest.raises(NodeError, match=message):
        LocalBlend(model=model, alignment=alignment, **words).run(ctx)


def test_maps_that_the_model_does_not_have_are_told(ctx, model, alignment, run):
    with pytest.raises(ValueError, match="cells: one of 1, 2 is wanted by this model, 4 given"):
        run(LocalBlend(model=model, alignment=alignment, source_words="cat", target_words="cat", cells=4).run(ctx))


@pytest.mark.filterwarnings("ignore:no conditioning")
def test_a_prompt_that_begins_later_blends_from_there_on(ctx, model, alignment, run, positive):
    late = positive.map(start=0.5)
    x = run(LocalBlend(model=model, alignment=alignment, source_words="cat", target_words="cat", threshold=1.0).run(ctx), positive=late)
    assert torch.equal(x[0], x[1])  # a threshold that nothing is above keeps the source wherever there were maps
    assert not torch.equal(*run(model, positive=late))


def test_by_words_it_wants_prompts_for_the_whole_picture_by_mask_any(ctx, model, alignment, run, positive):
    half = positive.map(area=Area(8, 4, 0, 4))
    words = {"source_words": "cat", "target_words": "cat"}
    with pytest.raises(NodeError, match="alignment: to blend by words, prompts for the whole picture are wanted"):
        run(LocalBlend(model=model, alignment=alignment, **words).run(ctx), positive=half)
    mask = Mask((torch.arange(64) >= 32).float().expand(1, 64, 64))
    x = run(LocalBlend(model=model, alignment=alignment, **words, mask=mask, start=0.0).run(ctx), positive=half)
    assert torch.equal(x[1, ..., :4], x[0, ..., :4])
    assert not torch.equal(x[1, ..., 4:], x[0, ..., 4:])
