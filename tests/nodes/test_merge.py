"""Merged models and text encoders, by the weights that a session would see."""

import pytest
import torch

from diffusion.patch import WeightPatch
from diffusion.weights import FullDelta, opened
from nodes.merge import (
    CLIPMergeAdd,
    CLIPMergeSimple,
    CLIPMergeSubtract,
    ModelMergeAdd,
    ModelMergeBlocks,
    ModelMergeSimple,
    ModelMergeSubtract,
)


class Ones(WeightPatch):
    """Adds one to every parameter."""

    def __init__(self, names_and_shapes):
        self.items = tuple(FullDelta(name, torch.ones(shape)) for name, shape in names_and_shapes)

    def deltas(self):
        return self.items


def weights(value, device):
    with opened(value.weights, value.patches, device.weights) as module:
        return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


@pytest.fixture(params=["model", "clip"])
def pair(request, model, clip, device):
    base = model if request.param == "model" else clip
    plain = weights(base, device)
    return request.param, base, base.patched(Ones((name, tensor.shape) for name, tensor in plain.items())), plain


NODES = {"model": (ModelMergeSimple, ModelMergeAdd, ModelMergeSubtract), "clip": (CLIPMergeSimple, CLIPMergeAdd, CLIPMergeSubtract)}


def test_arithmetic(pair, ctx, device):
    kind, base, more, plain = pair
    simple, add, subtract = NODES[kind]
    one, two = f"{kind}1", f"{kind}2"

    def all_close(value, wanted):
        found = weights(value, device)
        return all(torch.allclose(found[name], wanted(plain[name]), atol=1e-5) for name in plain)

    assert all_close(simple(**{one: more, two: base}, ratio=0.25).run(ctx), lambda w: w + 0.25)
    assert all_close(simple(**{one: base, two: more}, ratio=0.25).run(ctx), lambda w: w + 0.75)
    difference = subtract(**{one: more, two: base}, multiplier=2.0).run(ctx)
    assert all_close(difference, lambda w: torch.full_like(w, 2.0))
    assert all_close(add(**{one: base, two: difference}).run(ctx), lambda w: w + 2)
    assert all_close(subtract(**{one: base, two: more}, multiplier=-1.0).run(ctx), torch.ones_like)


def test_a_ratio_of_one_or_zero_is_one_of_the_two_bit_for_bit(model, ctx, device):
    plain = weights(model, device)
    more = model.patched(Ones((name, tensor.shape) for name, tensor in plain.items()))
    tuned = weights(more, device)
    for ratio, wanted in ((1.0, plain), (0.0, tuned)):
        found = weights(ModelMergeSimple(model1=model, model2=more, ratio=ratio).run(ctx), device)
        assert all(torch.equal(found[name], wanted[name]) for name in plain)


def test_blocks_have_their_own_ratios(model, ctx, device):
    plain = weights(model, device)
    more = model.patched(Ones((name, tensor.shape) for name, tensor in plain.items()))
    found = weights(ModelMergeBlocks(model1=model, model2=more, input=0.9, middle=0.6, out=0.2).run(ctx), device)
    shares = {
        "conv_in": 0.1,
        "time_embedding": 0.1,
        "down_blocks": 0.1,
        "mid_block": 0.4,
        "up_blocks": 0.8,
        "conv_norm_out": 0.8,
        "conv_out": 0.8,
    }
    assert {name.partition(".")[0] for name in plain} == shares.keys()
    for name, tensor in plain.items():
        assert torch.allclose(found[name], tensor + shares[name.partition(".")[0]], atol=1e-5), name


def test_nothing_is_computed_before_use_and_nothing_stays(model, ctx, device):
    before = weights(model, device)
    merged = ModelMergeAdd(model1=model, model2=model).run(ctx)
    assert merged.weights == model.weights
    assert merged.process == model.process
    doubled = weights(merged, device)
    assert all(torch.equal(doubled[name], 2 * tensor) for name, tensor in before.items())
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(model, device).items())
