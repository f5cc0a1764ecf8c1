"""pix2pix-zero: the direction between sets of sentences, and the gradient that holds the targets to the source's maps."""

from __future__ import annotations

import math

import pytest
import torch

from diffusion.guidance import CFG
from diffusion.patch import AttentionPatch
from diffusion.sample import sample
from diffusion.schedule import Schedule
from diffusion.session import open_session
from diffusion.text import encode
from diffusion.values import Guider, Latent, Noise, Sampler, Sigmas, Trajectory
from graph_engine.errors import GraphError
from nodes.pix2pix_zero import CrossAttentionGuidance, EditDirection
from nodes.source_and_target import SourceAndTarget

LEVELS = Sigmas(torch.tensor([12.0, 6.0, 2.0, 0.5, 0.0]))


@pytest.fixture
def start(ctx, red, blue):
    return SourceAndTarget(samples=Latent(torch.zeros(1, 4, 8, 8)), source=red, target=blue).run(ctx)


def run(model, start, negative, device, seed=3):
    guider = Guider(model, CFG(start.positive, negative, 3.0))
    return sample(guider, Noise(seed), Sampler.of("euler"), LEVELS, start.latent, device)[0].x


class Maps(AttentionPatch):
    """The cross-attention maps of the last evaluation."""

    def __init__(self):
        self.maps = []

    def at_site(self, site):
        return site.cross

    def __call__(self, call, next):
        self.maps.append(call.probs())
        return next(call)


# -- direction --


def test_the_direction_is_the_difference_of_the_means(ctx, clip, red, device):
    source, target = ["a red cat", "a big red cat"], ["a blue dog", "the blue dog", "a dog"]
    moved = EditDirection(conditioning=red, clip=clip, source="\n".join(source), target="\n\n".join(target), strength=0.5).run(ctx)

    def mean(texts):
        return torch.stack([encode(clip, text, device).entries[0].embeds for text in texts]).mean(0)

    torch.testing.assert_close(moved.entries[0].embeds, red.entries[0].embeds + 0.5 * (mean(target) - mean(source)))
    assert not torch.equal(moved.entries[0].pooled, red.entries[0].pooled)


def test_equal_sets_and_strength_0_leave_the_prompt_as_it_is(ctx, clip, red):
    same = EditDirection(conditioning=red, clip=clip, source="a cat\na dog", target="a cat\na dog").run(ctx)
    assert torch.equal(same.entries[0].embeds, red.entries[0].embeds)
    assert EditDirection(conditioning=red, clip=clip, source="a cat", target="a dog", strength=0.0).run(ctx) is red
    with pytest.raises(GraphError, match="target: at least one sentence is wanted"):
        EditDirection(conditioning=red, clip=clip, source="a cat", target=" \n").run(ctx)


# -- guidance --


def test_a_step_goes_down_the_gradient_of_the_distance_between_the_maps(ctx, model, start, blue, device):
    """The gradient of the distance, taken here by central differences along the step's own direction."""
    step = Schedule(model.process.table(), LEVELS.values)[1]
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * step.sigma

    def distance(x):
        maps = Maps()
        with open_session(model.patched(maps), CFG(start.positive, blue, 3.0), device) as net, torch.no_grad():
            net.predict("positive", x, step.sigma)
        return sum((m[1].double() - m[0].double()).square().sum((1, 2)).mean() for m in maps.maps).item()

    guided = CrossAttentionGuidance(model=model, amount=0.1).run(ctx)
    with open_session(guided, CFG(start.positive, blue, 3.0), device) as net, torch.no_grad():
        moved = net.before(x, step)
    assert torch.equal(moved[0], x[0])
    gradient = (x - moved)[1] / (0.1 * (1 + step.sigma**2))
    along = torch.stack([torch.zeros_like(gradient), gradient / gradient.norm()])
    h = 0.02 * step.sigma
    slope = (distance(x + h * along) - distance(x - h * along)) / (2 * h)
    assert slope == pytest.approx(gradient.norm().item(), rel=0.1)
    assert distance(x - h * along) < distance(x)


def test_equal_prompts_are_the_source_amount_0_is_plain_and_nothing_stays_behind(ctx, model, red, blue, start, device):
    same = SourceAndTarget(samples=Latent(torch.zeros(1, 4, 8, 8)), source=red, target=red).run(ctx)
    guided = CrossAttentionGuidance(model=model, amount=1.0).run(ctx)
    edited = run(guided, same, blue, device)
    assert torch.equal(edited[1], edited[0])
    assert torch.equal(edited, run(model, same, blue, device))
    assert CrossAttentionGuidance(model=model, amount=0.0).run(ctx) is model
    plain, edited = run(model, start, blue, device), run(guided, start, blue, device)
    assert not edited.requires_grad
    assert torch.equal(edited[0], plain[0])
    assert not torch.allclose(edited[1], plain[1], atol=1e-2)
    assert torch.equal(run(CrossAttentionGuidance(model=model, until=0.0).run(ctx), start, blue, device), plain)
    assert torch.equal(run(model, start, blue, device), plain)


def test_a_further_target_changes_nothing_for_the_first(ctx, model, red, blue, start, device):
    three = SourceAndTarget(samples=Latent(torch.zeros(1, 4, 8, 8)), source=start.positive, target=red).run(ctx)
    guided = CrossAttentionGuidance(model=model, amount=0.1).run(ctx)
    torch.testing.assert_close(run(guided, three, blue, device)[:2], run(guided, start, blue, device), atol=1e-3, rtol=1e-3)


def test_a_real_picture_comes_in_as_a_trajectory(ctx, model, start, blue, device):
    levels = LEVELS.values.flip(0)
    path = Trajectory(torch.randn(5, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * (1 + levels.view(-1, 1, 1, 1, 1)), levels)
    begun = SourceAndTarget.Out(Latent(path.latents[-1].repeat(2, 1, 1, 1) / 0.18215), start.positive)
    edited = run(CrossAttentionGuidance(model=model, trajectory=path).run(ctx), begun, blue, device, seed=None)
    torch.testing.assert_close(edited[0] * 0.18215, path.latents[0, 0])
    assert math.isfinite(edited.sum())


def test_where_the_prompt_does_not_hold_nothing_is_guided(ctx, model, start, blue, device):
    late = start._replace(positive=start.positive.map(start=1.0))
    with pytest.warns(UserWarning, match="no conditioning of 'positive' is active"):
        guided, plain = (run(m, late, blue, device) for m in (CrossAttentionGuidance(model=model).run(ctx), model))
    assert torch.equal(guided, plain)
