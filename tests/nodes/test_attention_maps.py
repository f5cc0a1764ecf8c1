"""Attention maps as values: means of what a run computes, edited as the run edits them, and drawn where the word's object stands."""

from __future__ import annotations

import pytest
import torch

import toybox
from diffusion.guidance import CFG
from diffusion.loading import open_checkpoint
from diffusion.pair import stacked
from diffusion.spacing import sigmas_for
from diffusion.text import encode
from diffusion.vae import decode
from diffusion.values import AttentionMap, AttentionStore, Guider, Image, Latent, Noise, Sampler, Sigmas, Tokens
from graph_engine.errors import NodeError
from nodes.attention_maps import SamplerAttentionMaps, ShowAttention, heat, word_map
from nodes.custom_sampling import SamplerCustomAdvanced
from nodes.prompt_to_prompt import AlignPrompts, PromptToPrompt

TOKENS = Tokens("a red cat", (0, 1, 2, 3, 4), ((-1, -1), (0, 1), (2, 5), (6, 9), (-1, -1)), (-1, 0, 1, 2, -1), (1.0,) * 5, 5)


def settings(model, positive, negative, steps=3, side=8, seed=5):
    rows = len(positive.entries[0].embeds)
    return {
        "noise": Noise(seed),
        "guider": Guider(model, CFG(positive, negative, 3.0)),
        "sampler": Sampler.of("euler"),
        "sigmas": Sigmas(sigmas_for(model.process.table(), "karras", steps)),
        "latent_image": Latent(torch.zeros(rows, 4, side, side), batch_index=(0,) * rows),
    }


def test_maps_are_probabilities_of_each_place_and_keeping_them_changes_nothing(ctx, model, red, blue):
    out = SamplerAttentionMaps(**settings(model, red, blue), kinds="both").run(ctx)
    plain = SamplerCustomAdvanced(**settings(model, red, blue)).run(ctx).output
    torch.testing.assert_close(out.output.x, plain.x, atol=1e-4, rtol=1e-4)
    places = [("down", (8, 8)), ("down", (4, 4)), ("mid", (4, 4)), ("up", (4, 4)), ("up", (8, 8))]
    assert {(m.place, m.size, m.cross) for m in out.maps.maps} == {(*place, cross) for place in places for cross in (True, False)}
    for m in out.maps.maps:
        assert m.probs.shape == (1, m.size[0] * m.size[1], 12 if m.cross else m.size[0] * m.size[1])
        torch.testing.assert_close(m.probs.sum(-1), torch.ones(m.probs.shape[:2]))
    assert out.maps.tokens[0].text == "a red cat"


def test_a_window_of_steps_is_a_part_of_the_mean(ctx, model, red, blue):
    def gathered(start, end):
        return SamplerAttentionMaps(**settings(model, red, blue, steps=4), start=start, end=end).run(ctx).maps.maps

    for whole, first, second in zip(gathered(0.0, 1.0), gathered(0.0, 0.5), gathered(0.5, 1.0), strict=True):
        torch.testing.assert_close(whole.probs, (first.probs + second.probs) / 2, atol=1e-4, rtol=1e-4)
        assert not torch.equal(first.probs, second.probs)


def test_maps_of_an_edit_are_the_edited_ones(ctx, model, clip, device, blue):
    positive = stacked(encode(clip, "a red cat", device), encode(clip, "a blue cat", device))
    alignment = AlignPrompts(positive=positive, mode="replace").run(ctx)
    edited = PromptToPrompt(model=model, alignment=alignment, cross_replace=1.0, self_replace=0.0).run(ctx)
    for m in SamplerAttentionMaps(**settings(edited, positive, blue)).run(ctx).maps.maps:
        torch.testing.assert_close(m.probs[1], m.probs[0])
    plain = SamplerAttentionMaps(**settings(model, positive, blue)).run(ctx).maps.maps
    assert any((m.probs[1] - m.probs[0]).abs().max() > 1e-3 for m in plain)


def test_a_words_map_is_the_sum_of_its_tokens_and_the_mean_of_places():
    probs = torch.rand(2, 1, 16, 5, generator=torch.Generator().manual_seed(1))
    store = AttentionStore((AttentionMap("down", (4, 4), True, probs[0]), AttentionMap("up", (4, 4), True, probs[1])), (TOKENS,))
    torch.testing.assert_close(word_map(store, 0, (1, 3)), probs[:, 0][..., [1, 3]].sum(-1).mean(0).view(4, 4))
    assert word_map(store, 0, (1,), side=4).shape == (4, 4)
    with pytest.raises(ValueError, match="side: 0 or a height of the gathered maps is wanted \\(4\\), 8 given"):
        word_map(store, 0, (1,), side=8)


def shown(ctx, **changes):
    probs = torch.zeros(1, 16, 5)
    probs[0, 5, 2], probs[0, 10, 3] = 0.8, 0.2  # red at row 1, column 1; cat at row 2, column 2
    store = AttentionStore((AttentionMap("up", (4, 4), True, probs),), (TOKENS,))
    return ShowAttention(**({"maps": store, "words": "red, cat", "label": False} | changes)).run(ctx)


def test_each_word_is_bright_where_it_is_looked_at(ctx):
    out = shown(ctx)
    assert out.mask.values.shape == (2, 32, 32)
    assert out.mask.values[0].argmax() // 32 // 8 == out.mask.values[0].argmax() % 32 // 8 == 1
    assert out.mask.values[1].argmax() // 32 // 8 == out.mask.values[1].argmax() % 32 // 8 == 2
    torch.testing.assert_close(out.image.pixels, heat(out.mask.values))
    together = shown(ctx, scale="all").mask.values
    torch.testing.assert_close(together[1], out.mask.values[1] / 4, atol=0.02, rtol=0)
    assert len(shown(ctx, words="").mask.values) == 3  # a, red, cat
    assert ctx.ui["text"][-1] == "a, red, cat"


def test_the_picture_shows_through_and_takes_a_label(ctx):
    picture = Image(torch.rand(1, 48, 64, 3))
    assert torch.equal(shown(ctx, image=picture, opacity=0.0).image.pixels, picture.pixels.expand(2, -1, -1, -1))
    labelled = shown(ctx, image=picture, opacity=0.0, label=True).image.pixels
    assert labelled.shape == (2, 48, 64, 3)
    assert (labelled[:, :16] - picture.pixels[:, :16]).abs().max() <= 1 / 255 + 1e-6
    assert (labelled[:, -12:] - picture.pixels[:, -12:]).abs().max() > 0.2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"picture": 1}, "picture: 0 to 0 is wanted by maps of 1 pictures, 1 given"),
        ({"words": "dog"}, "the prompt 'a red cat' has 'dog' 0 times"),
        (
            {"maps": AttentionStore((AttentionMap("up", (2, 2), True, torch.zeros(1, 4, 5)),))},
            "maps: those of an encoded prompt are wanted",
        ),
    ],
)
def test_what_cannot_be_shown_is_told(ctx, changes, message):
    with pytest.raises((NodeError, ValueError), match=message):
        shown(ctx, **changes)


def test_a_toybox_noun_is_looked_at_where_its_object_is_painted(ctx, device):
    model, clip, vae = open_checkpoint(toybox.WEIGHTS)
    positive, negative = encode(clip, "a large red star at the top right on a blue plain background", device), encode(clip, "", device)
    out = SamplerAttentionMaps(**settings(model, positive, negative, steps=8, side=16, seed=1)).run(ctx)
    picture = decode(vae, out.output, device)
    mask = ShowAttention(maps=out.maps, image=picture, words="star, background").run(ctx).mask.values > 0.5
    star = (picture.pixels[0, ..., 0] > 0.5) & (picture.pixels[0, ..., 2] < 0.4)
    assert star.sum() > 400
    assert (mask[0] & star).sum() / (mask[0] | star).sum() > 0.5
    assert (mask[1] & star).sum() / star.sum() < 0.2
