"""Composed prompts against the sum written down anew."""

from __future__ import annotations

import pytest
import torch

from diffusion.guidance import CFG, Conditional
from diffusion.session import open_session
from diffusion.text import encode
from nodes.compose_prompts import ComposePrompts

SIGMA = 2.5


@pytest.fixture
def x():
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)) * SIGMA


def denoised(model, guidance, device, x):
    with open_session(model, guidance, device) as net, torch.no_grad():
        return net.denoise_all(x, SIGMA)


def test_prompts_add_up_as_seen_from_the_negative(ctx, model, clip, red, blue, device, x):
    empty = encode(clip, "", device)
    plain, _ = denoised(model, CFG(red, empty, 3.0), device, x)
    both = ComposePrompts(model=model, conditioning=blue, weight=2.0).run(ctx)
    neither = ComposePrompts(model=both, conditioning=red, weight=-1.5).run(ctx)
    d_red, d_blue, d_empty = (denoised(model, Conditional(c), device, x)[0] for c in (red, blue, empty))
    got, preds = denoised(neither, CFG(red, empty, 3.0), device, x)
    expected = d_empty + 3.0 * (d_red - d_empty) + 2.0 * (d_blue - d_empty) - 1.5 * (d_red - d_empty)
    torch.testing.assert_close(got, expected, atol=1e-3, rtol=1e-3)
    assert set(preds) == {"positive", "negative", "composed 1", "composed 2"}
    assert torch.equal(denoised(model, CFG(red, empty, 3.0), device, x)[0], plain)


def test_weight_0_is_plain_and_the_same_prompt_is_more_guidance(ctx, model, red, blue, device, x):
    assert ComposePrompts(model=model, conditioning=red, weight=0.0).run(ctx) is model
    more = ComposePrompts(model=model, conditioning=red, weight=2.0).run(ctx)
    torch.testing.assert_close(
        denoised(more, CFG(red, blue, 3.0), device, x)[0], denoised(model, CFG(red, blue, 5.0), device, x)[0], atol=1e-3, rtol=1e-3
    )
    # at scale 1 the guidance alone could do without the negative
    torch.testing.assert_close(
        denoised(more, CFG(red, blue, 1.0), device, x)[0], denoised(model, CFG(red, blue, 3.0), device, x)[0], atol=1e-3, rtol=1e-3
    )


def test_batch_mates_change_no_picture(ctx, model, red, blue, device, x):
    composed = ComposePrompts(model=model, conditioning=blue, weight=2.0).run(ctx)
    one = denoised(composed, CFG(red, blue, 3.0), device, x[1:])[0]
    torch.testing.assert_close(denoised(composed, CFG(red, blue, 3.0), device, x)[0][1:], one, atol=1e-4, rtol=1e-4)


def test_without_a_negative_there_is_nothing_to_see_prompts_from(ctx, model, red, device):
    composed = ComposePrompts(model=model, conditioning=red).run(ctx)
    with (
        pytest.raises(ValueError, match="guider: one with a negative conditioning is wanted"),
        open_session(composed, Conditional(red), device),
    ):
        pass
