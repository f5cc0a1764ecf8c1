"""Rows of a source and its targets, and paths looked up by level."""

from __future__ import annotations

import pytest
import torch

from diffusion.guidance import CFG
from diffusion.pair import Pinned, pairs, source_and_targets, stacked, state_at
from diffusion.patch import Rows
from diffusion.sample import sample
from diffusion.text import encode
from diffusion.values import Area, Conditioning, Guider, Latent, Noise, Sampler, Sigmas, Trajectory

PATH = Trajectory(torch.arange(4.0).reshape(4, 1, 1, 1, 1).expand(4, 1, 4, 2, 2), torch.tensor([0.0, 1, 2, 4]))


def test_the_first_row_is_the_source_unless_one_has_that_name():
    assert source_and_targets((), 3) == (0, (1, 2))
    assert source_and_targets(("target", "source"), 3) == (1, (0,))  # a third picture has no name and no part in it
    with pytest.raises(ValueError, match="one picture given; use SourceAndTarget"):
        source_and_targets((), 1)
    with pytest.raises(ValueError, match="one called 'source' is wanted, target given"):
        source_and_targets(("target",), 2)


def test_rows_pair_up_in_every_branch_and_entry():
    rows = Rows((("positive", 0, 6), ("negative", 6, 9)), 3)
    assert pairs(rows) == ([0, 0, 3, 3, 6, 6], [1, 2, 4, 5, 7, 8])
    assert pairs(rows, "negative") == ([6, 6], [7, 8])
    named = Rows((("positive", 0, 3),), 3, ("target", "source"))
    assert pairs(named) == ([1], [0])


def test_stacked_prompts_are_rows_and_know_their_words(red, blue, clip, device):
    both = stacked(stacked(red, blue), red)
    (entry,) = both.entries
    assert [tokens.text for tokens in entry.tokens] == ["a photograph of a red cat", "a blue dog", "a photograph of a red cat"]
    assert torch.equal(entry.embeds, torch.cat([red.entries[0].embeds, blue.entries[0].embeds, red.entries[0].embeds]))
    long = encode(clip, "a red cat on the table and a blue dog on the table of wood", device)
    assert len(stacked(blue, long).entries[0].embeds[0]) == len(long.entries[0].embeds[0])
    two, three = (prompt.map(embeds=prompt.entries[0].embeds.repeat(1, n, 1)[:, : n * 12]) for prompt, n in ((red, 2), (blue, 3)))
    assert len(stacked(two, three).entries[0].embeds[0]) == 72  # every key of a row as often as every other
    with pytest.raises(ValueError, match="as many tokens as in source are wanted, 12 and 13 given"):
        stacked(blue, blue.map(embeds=torch.zeros(1, 13, 32)))
    with pytest.raises(ValueError, match="1 entries are wanted as source has, 2 given"):
        stacked(red, Conditioning((*red, *blue)))


def test_a_path_is_looked_up_by_level():
    assert [state_at(PATH, sigma).unique().item() for sigma in (0.0, 1.0, 2.0, 4.0, 3.0, 0.5)] == [0, 1, 2, 3, 2.5, 0.5]
    with pytest.raises(ValueError, match="reaches level 4, and 5 is asked for"):
        state_at(PATH, 5.0)


def test_a_pinned_source_ends_at_the_paths_clean_end_and_disturbs_nobody(model, red, blue, device):
    levels = [0.0, 0.5, 2.0, 8.0]
    path = Trajectory(torch.randn(4, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor(levels))
    start = Latent(torch.cat([torch.zeros(1, 4, 8, 8), path.latents[-1] / 0.18215]))

    def run(model):
        guider = Guider(model, CFG(stacked(red, blue), blue, 2.0))
        return sample(guider, Noise(None), Sampler.of("euler"), Sigmas(torch.tensor(levels[::-1])), start, device)[0].x

    pinned, free = run(model.patched(Pinned(path))), run(model)
    torch.testing.assert_close(pinned[0] * 0.18215, path.latents[0, 0])
    torch.testing.assert_close(pinned[1], free[1], atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="that of one picture is wanted, of 2 given"):
        Pinned(Trajectory(path.latents.expand(-1, 2, -1, -1, -1), path.sigmas))


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ({"area": Area(8, 4, 0, 4)}, "area"),
        ({"start": 0.5}, "start"),
        ({"mask": torch.ones(1, 8, 8)}, "mask"),
        ({"strength": 0.5, "end": 0.5}, "strength, end"),
        ({"patches": (Pinned(PATH),)}, "patches"),
    ],
)
def test_prompts_that_hold_elsewhere_do_not_stand_in_one_row(red, blue, told, name):
    for source, target in ((red.map(**told), blue), (red, blue.map(**told))):
        with pytest.raises(ValueError, match=f"target: {name} as in source is wanted; set it on both after Source and Target"):
            stacked(source, target)
    both = stacked(red.map(**told), blue.map(**told))
    assert all(getattr(both.entries[0], field) is value for field, value in told.items())


def test_prompts_that_change_from_step_to_step_do_not_stand_in_one_row(red, blue):
    steps = blue.entries[0].embeds[None]
    with pytest.raises(ValueError, match="target: per_step as in source is wanted"):
        stacked(red, blue.map(per_step=steps))
    with pytest.raises(ValueError, match="target: per_step as in source is wanted"):
        stacked(red.map(per_step=steps), blue.map(per_step=steps))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (Trajectory(PATH.latents, PATH.sigmas, format="sdxl"), "trajectory: a sd1 latent is wanted by this model, sdxl given"),
        (Trajectory(PATH.latents.repeat(1, 1, 4, 1, 1), PATH.sigmas), "trajectory: 4 channels are wanted by this model, 16 given"),
        (PATH, r"trajectory: one of latents \(4, 8, 8\) is wanted as is sampled, \(4, 2, 2\) given"),
    ],
)
def test_a_path_of_another_model_or_size_is_refused(model, red, blue, device, path, message):
    guider = Guider(model.patched(Pinned(path)), CFG(stacked(red, blue), blue, 2.0))
    with pytest.raises(ValueError, match=message):
        sample(guider, Noise(0), Sampler.of("euler"), Sigmas(torch.tensor([4.0, 0.0])), Latent(torch.zeros(2, 4, 8, 8)), device)
