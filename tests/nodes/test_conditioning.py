import torch

from diffusion.conditioning import combine
from diffusion.guidance import Conditional
from diffusion.session import open_session
from diffusion.text import encode
from diffusion.values import Area, Mask
from nodes import conditioning as node
from nodes.text import CLIPSetLastLayer, CLIPTextEncode


def predicted(model, device, conditioning, size: int = 16, sigma: float = 3.0) -> torch.Tensor:
    x = torch.randn(1, 4, size, size, generator=torch.Generator().manual_seed(2)) * sigma
    with open_session(model, Conditional(conditioning), device) as net, torch.no_grad():
        return net.denoise(x, sigma)


def test_text_is_encoded_by_the_clip_that_is_wired(ctx, clip, device):
    out = CLIPTextEncode(text="a (red:1.3) cat", clip=clip).run(ctx)
    assert torch.equal(out.entries[0].embeds, encode(clip, "a (red:1.3) cat", device).entries[0].embeds)
    earlier = CLIPSetLastLayer(clip=clip, stop_at_clip_layer=-2).run(ctx)
    assert not torch.equal(CLIPTextEncode(text="a red cat", clip=earlier).run(ctx).entries[0].embeds, out.entries[0].embeds)
    assert clip.last_layer is None


def test_average_leans_to_conditioning_to(ctx, red, blue):
    def averaged(strength: float) -> torch.Tensor:
        mixed = node.ConditioningAverage(conditioning_to=red, conditioning_from=blue, conditioning_to_strength=strength)
        return mixed.run(ctx).entries[0].embeds

    a, b = red.entries[0].embeds, blue.entries[0].embeds
    assert torch.equal(averaged(1.0), a)
    assert torch.equal(averaged(0.0), b)
    assert torch.allclose(averaged(0.75), a * 0.75 + b * 0.25)


def test_concat_lengthens_the_token_axis(ctx, red, blue):
    out = node.ConditioningConcat(conditioning_to=red, conditioning_from=blue).run(ctx)
    assert torch.equal(out.entries[0].embeds, torch.cat([red.entries[0].embeds, blue.entries[0].embeds], 1))


def test_combined_conditionings_are_averaged_not_added(ctx, model, device, red, blue):
    both = node.ConditioningCombine(conditioning_1=red, conditioning_2=blue).run(ctx)
    wanted = (predicted(model, device, red) + predicted(model, device, blue)) / 2
    assert torch.allclose(predicted(model, device, both), wanted, atol=1e-5)
    assert torch.allclose(predicted(model, device, combine(red, red)), predicted(model, device, red), atol=1e-5)


def test_an_area_counts_in_pixels_and_leaves_the_rest_to_others(ctx, model, device, red, blue):
    right = node.ConditioningSetArea(conditioning=blue, width=64, height=130, x=64, y=0, strength=2.0).run(ctx)
    assert right.entries[0].area == Area(16, 8, 0, 8)
    assert right.entries[0].strength == 2.0
    both = predicted(model, device, combine(red, right))
    assert torch.allclose(both[..., :8], predicted(model, device, red)[..., :8], atol=1e-5)
    assert not torch.allclose(both[..., 8:], predicted(model, device, red)[..., 8:], atol=1e-2)


def test_relative_areas_and_strengths(ctx, red):
    half = node.ConditioningSetAreaPercentage(conditioning=red, width=0.5, height=1.0, x=0.5, y=0.0).run(ctx)
    assert half.entries[0].area == Area(1.0, 0.5, 0.0, 0.5, relative=True)
    weighed = node.ConditioningSetAreaStrength(conditioning=half, strength=0.25).run(ctx)
    assert (weighed.entries[0].strength, weighed.entries[0].area) == (0.25, half.entries[0].area)


def test_a_mask_decides_who_holds_where(ctx, model, device, red, blue):
    values = torch.zeros(1, 16, 16)
    values[..., 8:] = 1
    left, right = Mask(1 - values), Mask(values)
    out = combine(
        node.ConditioningSetMask(conditioning=red, mask=left).run(ctx), node.ConditioningSetMask(conditioning=blue, mask=right).run(ctx)
    )
    got = predicted(model, device, out)
    assert torch.allclose(got[..., :8], predicted(model, device, red)[..., :8], atol=1e-5)
    assert torch.allclose(got[..., 8:], predicted(model, device, blue)[..., 8:], atol=1e-5)
    bounds = node.ConditioningSetMask(conditioning=red, mask=right, strength=0.5, set_cond_area="mask bounds").run(ctx)
    assert (bounds.entries[0].mask_bounds, bounds.entries[0].mask_strength) == (True, 0.5)


def test_a_time_range_is_a_range_of_training_timesteps(ctx, model, device, red, blue):
    early = node.ConditioningSetTimestepRange(conditioning=red, start=0.0, end=0.5).run(ctx)
    late = node.ConditioningSetTimestepRange(conditioning=blue, start=0.5, end=1.0).run(ctx)
    border = model.process.table().percent_to_sigma(0.5)
    for factor, holds in ((1.01, red), (0.99, blue)):
        got = predicted(model, device, combine(early, late), sigma=border * factor)
        assert torch.allclose(got, predicted(model, device, holds, sigma=border * factor), atol=1e-5)


def test_zeroed_embeddings_are_zero(ctx, red):
    out = node.ConditioningZeroOut(conditioning=red).run(ctx).entries[0]
    assert out.embeds.shape == red.entries[0].embeds.shape
    assert not out.embeds.any()
    assert not out.pooled.any()
