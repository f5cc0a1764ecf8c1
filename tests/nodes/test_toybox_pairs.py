"""Pairs of the toybox: what is said is what changes, and nothing else does."""

from __future__ import annotations

import torch

from nodes.toybox_pairs import ToyboxEditPairs


def test_pairs_differ_where_the_mask_says_and_come_again_with_the_seed(ctx):
    pairs = ToyboxEditPairs(seed=7, count=5, attribute="color", objects="two").run(ctx)
    lines = pairs.instructions.split("\n")
    assert pairs.before.pixels.shape == pairs.after.pixels.shape == (5, 128, 128, 3)
    assert len(lines) == 5
    assert all(line.split()[0] in ("make", "turn", "change", "color") for line in lines)
    apart = (pairs.before.pixels - pairs.after.pixels).abs().amax(-1)
    assert torch.equal(apart > 0, pairs.mask.values == 1)
    share = pairs.mask.values.mean((1, 2))
    assert (share > 0.002).all()
    assert (share < 0.5).all()  # an object's colour, not the ground's
    third = ToyboxEditPairs(seed=9, count=1, attribute="color", objects="two").run(ctx)
    assert torch.equal(third.after.pixels[0], pairs.after.pixels[2])
    assert third.instructions == lines[2]


def test_many_are_drawn_in_parts(ctx):
    many = ToyboxEditPairs(seed=0, count=40).run(ctx)
    one = ToyboxEditPairs(seed=39, count=1).run(ctx)
    assert torch.equal(many.before.pixels[39], one.before.pixels[0])
    assert torch.equal(many.after.pixels[39], one.after.pixels[0])
    assert len(set(many.instructions.split("\n"))) > 20
