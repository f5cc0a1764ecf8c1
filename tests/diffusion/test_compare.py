import math

import pytest
import torch

from diffusion.compare import psnr, ssim, ssim_map


def pictures(c=3):
    rng = torch.Generator().manual_seed(0)
    a = torch.rand(2, 14, 17, c, generator=rng)
    return a, (a + 0.2 * torch.randn(a.shape, generator=rng)).clamp(0, 1)


def test_psnr_of_a_known_error():
    a = torch.zeros(1, 8, 8, 3)
    assert psnr(a, a + 0.1) == pytest.approx(20)
    assert psnr(a, a + 0.01) == pytest.approx(40)
    assert psnr(a, a) == math.inf


def test_psnr_under_a_mask_sees_nothing_else():
    a = torch.zeros(1, 8, 8, 3)
    b, mask = a.clone(), torch.zeros(1, 8, 8)
    b[:, :4] = 0.1
    mask[:, :4] = 1
    assert psnr(a, b, mask) == pytest.approx(20)
    assert psnr(a, b, 1 - mask) == math.inf
    assert psnr(a, b) == pytest.approx(20 + 10 * math.log10(2))
    assert math.isnan(psnr(a, b, mask * 0))


def test_ssim_by_the_definition_at_one_pixel():
    a, b = pictures(1)
    y, x = 7, 8
    at = torch.arange(-5, 6, dtype=torch.float64)
    window = torch.exp(-(at[:, None] ** 2 + at**2) / (2 * 1.5**2))
    window /= window.sum()
    p, q = (i[1, y - 5 : y + 6, x - 5 : x + 6, 0].double() for i in (a, b))
    mu_p, mu_q = (window * p).sum(), (window * q).sum()
    var_p, var_q = (window * (p - mu_p) ** 2).sum(), (window * (q - mu_q) ** 2).sum()
    cov = (window * (p - mu_p) * (q - mu_q)).sum()
    expected = (2 * mu_p * mu_q + 1e-4) * (2 * cov + 9e-4) / ((mu_p**2 + mu_q**2 + 1e-4) * (var_p + var_q + 9e-4))
    assert ssim_map(a, b)[1, y, x].item() == pytest.approx(expected.item(), rel=1e-9)


def test_ssim_of_constant_pictures_is_the_luminance_term():
    a, b = torch.full((1, 12, 12, 3), 0.3), torch.full((1, 12, 12, 3), 0.6)
    assert ssim(a, b) == pytest.approx((2 * 0.3 * 0.6 + 1e-4) / (0.3**2 + 0.6**2 + 1e-4), rel=1e-5)


def test_ssim_laws():
    a, b = pictures()
    assert ssim(a, a) == pytest.approx(1)
    assert ssim(a, b) == pytest.approx(ssim(b, a))
    assert ssim(a, b) < 0.99
    assert ssim(a, 1 - a) < 0
    channels = [ssim(a[..., i : i + 1], b[..., i : i + 1]) for i in range(3)]
    assert ssim(a, b) == pytest.approx(sum(channels) / 3)


def test_ssim_inside_and_outside_a_mask():
    a, b = pictures()
    b[:, :, 8:] = a[:, :, 8:]
    mask = torch.zeros(1, 14, 17)
    mask[:, :, :3] = 1
    inside, outside = ssim(a, b, mask), ssim(a, b, 1 - mask)
    share = 3 / 17
    assert share * inside + (1 - share) * outside == pytest.approx(ssim(a, b))
    far = torch.zeros(1, 14, 17)
    far[:, :, 13:] = 1  # no window from there reaches the change
    assert ssim(a, b, far) == pytest.approx(1)


def test_shapes_must_fit():
    a = torch.rand(1, 12, 12, 3)
    with pytest.raises(ValueError, match="images"):
        psnr(a, a[:, :6])
    with pytest.raises(ValueError, match="mask"):
        psnr(a, a, torch.ones(1, 6, 6))
    with pytest.raises(ValueError, match="6 x 6"):
        ssim(a[:, :5], a[:, :5])
