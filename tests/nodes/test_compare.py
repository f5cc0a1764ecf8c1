import math

import pytest
import torch

from diffusion.values import Image, Mask
from nodes.compare import ImageCompare


def picture(seed: int, batch: int = 1) -> Image:
    return Image(torch.rand(batch, 32, 24, 3, generator=torch.Generator().manual_seed(seed)))


def test_equal_pictures_are_infinitely_alike(ctx):
    out = ImageCompare(image=picture(1), reference=picture(1)).run(ctx)
    assert (out.psnr, out.ssim, out.mse) == (math.inf, pytest.approx(1), 0)
    assert "∞" in out.report
    assert ctx.ui["text"] == [out.report]


def test_a_known_error_has_its_psnr(ctx):
    a = Image(torch.full((1, 32, 24, 3), 0.5))
    out = ImageCompare(image=a, reference=Image(a.pixels + 0.1)).run(ctx)
    assert out.mse == pytest.approx(0.01, rel=1e-4)
    assert out.psnr == pytest.approx(20, abs=1e-3)
    assert out.metrics["psnr"] == out.psnr


def test_an_error_under_the_mask_shows_inside_only(ctx):
    mask = torch.zeros(1, 32, 24)
    mask[:, 8:24, 6:18] = 1
    a = picture(1)
    wrong = Image((a.pixels * (1 - mask[..., None]) + (1 - a.pixels) * mask[..., None]).clamp(0, 1))
    out = ImageCompare(image=wrong, reference=a, mask=Mask(mask)).run(ctx)
    assert out.psnr_outside == math.inf
    assert out.psnr_inside < out.psnr < math.inf
    assert out.ssim_inside < out.ssim < out.ssim_outside
    share = mask.mean().item()
    assert out.metrics["mse_inside"] * share == pytest.approx(out.mse, rel=1e-5)


def test_a_full_mask_is_no_mask(ctx):
    whole = ImageCompare(image=picture(1), reference=picture(2)).run(ctx)
    out = ImageCompare(image=picture(1), reference=picture(2), mask=Mask(torch.ones(1, 8, 8))).run(ctx)
    assert (out.psnr_inside, out.ssim_inside) == (pytest.approx(whole.psnr), pytest.approx(whole.ssim))
    assert math.isnan(out.psnr_outside)
    assert math.isnan(whole.psnr_inside)
    assert "psnr_inside" not in dict(whole.metrics.values)


def test_one_reference_serves_a_batch(ctx):
    both = ImageCompare(image=picture(1, 2), reference=picture(3)).run(ctx)
    one, two = (ImageCompare(image=Image(picture(1, 2).pixels[i : i + 1]), reference=picture(3)).run(ctx) for i in (0, 1))
    assert both.mse == pytest.approx((one.mse + two.mse) / 2)


def test_pictures_that_do_not_match_are_refused(ctx):
    with pytest.raises(ValueError, match="reference: a picture of 24 × 32 is wanted as image is, 24 × 16 given; use ImageScale"):
        ImageCompare(image=picture(1), reference=Image(torch.zeros(1, 16, 24, 3))).run(ctx)
    with pytest.raises(ValueError, match="reference: a batch of 1 or 2 is wanted as image is, 3 given"):
        ImageCompare(image=picture(1, 2), reference=picture(1, 3)).run(ctx)
