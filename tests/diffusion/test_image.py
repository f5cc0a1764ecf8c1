import numpy as np
import pytest
import torch
from PIL import Image as Picture

from diffusion.image import (
    METHODS,
    complete_size,
    crop_to_aspect,
    crop_to_multiple,
    fit_channels,
    from_pil,
    resize,
    resize_image,
    to_pil,
)


def ramp(h, w, c=1):
    return torch.arange(h * w * c, dtype=torch.float32).reshape(1, c, h, w) / (h * w * c)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("width", "height"), [(6, 4), (13, 9), (3, 2), (1, 1)])
def test_every_method_gives_the_size_and_keeps_a_constant(method, width, height):
    x = torch.full((2, 4, 4, 6), 0.2)
    out = resize(x, width, height, method)
    assert out.shape == (2, 4, height, width)
    assert torch.allclose(out, torch.full_like(out, 0.2), atol=1 / 255)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "lanczos"])
def test_the_same_size_changes_nothing(method):
    x = ramp(4, 6, 3)
    assert torch.allclose(resize(x, 6, 4, method), x, atol=1e-6)


def test_nearest_exact_takes_cell_centres():
    x = torch.tensor([[[[0.0, 1.0, 2.0, 3.0, 4.0]]]])
    assert resize(x, 2, 1, "nearest-exact").flatten().tolist() == [1.0, 3.0]
    assert resize(x, 10, 1, "nearest-exact").flatten().tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_bilinear_has_no_antialiasing_and_area_is_the_mean():
    x = torch.tensor([[[[0.0, 0.0, 0.0, 8.0, 0.0, 0.0, 0.0, 4.0]]]])
    assert resize(x, 2, 1, "bilinear").flatten().tolist() == [0.0, 0.0]
    assert resize(x, 2, 1, "area").flatten().tolist() == [2.0, 1.0]


def test_lanczos_is_pils_on_truncated_bytes():
    image = torch.rand(1, 9, 7, 3, generator=torch.Generator().manual_seed(0))
    picture = Picture.fromarray((image[0] * 255).numpy().astype(np.uint8))
    expected = np.asarray(picture.resize((12, 5), Picture.Resampling.LANCZOS), dtype=np.float32) / 255
    assert np.array_equal(resize_image(image, 12, 5, "lanczos")[0].numpy(), expected)


def test_bislerp_turns_directions_and_mixes_lengths():
    """Between the vectors (2, 0) and (0, 4): a quarter turn at even speed, and a line of norms."""
    x = torch.tensor([[2.0, 0.0], [0.0, 4.0]]).reshape(1, 2, 1, 2)
    out = resize(x, 4, 1, "bislerp")[0, :, 0]  # places 0, 1/4, 3/4, 1 between the two
    angle = torch.atan2(out[1], out[0])
    assert torch.allclose(angle, torch.tensor([0.0, 0.25, 0.75, 1.0]) * torch.pi / 2, atol=1e-6)
    assert torch.allclose(out.norm(dim=0), torch.tensor([2.0, 2.5, 3.5, 4.0]))


def test_bislerp_of_parallel_opposite_and_zero_vectors():
    same = torch.tensor([[1.0, 3.0], [0.0, 0.0]]).reshape(1, 2, 1, 2)
    assert resize(same, 4, 1, "bislerp")[0, 0, 0].tolist() == [1.0, 1.0, 1.0, 3.0]  # the nearer end in front
    opposite = torch.tensor([[1.0, -1.0], [0.0, 0.0]]).reshape(1, 2, 1, 2)
    assert resize(opposite, 4, 1, "bislerp")[0, 0, 0].tolist() == pytest.approx([1.0, 0.5, -0.5, -1.0])
    zero = torch.zeros(1, 2, 1, 2)
    assert resize(zero, 4, 1, "bislerp").abs().max() == 0


def test_bislerp_of_both_axes():
    x = torch.randn(2, 4, 5, 3, generator=torch.Generator().manual_seed(0))
    out = resize(x, 7, 9, "bislerp")
    turned = resize(x.mT, 9, 7, "bislerp").mT
    assert out.shape == (2, 4, 9, 7)
    assert torch.allclose(out[..., 0, 0], x[..., 0, 0])
    assert torch.allclose(out[..., :, 0], turned[..., :, 0], atol=1e-5)  # on an edge one axis alone decides


def test_centre_crop_comes_first():
    x = ramp(4, 8)
    assert torch.equal(resize(x, 2, 2, "area", "center"), resize(x[..., 2:6], 2, 2, "area"))
    assert torch.equal(crop_to_aspect(x, 1, 1), x[..., 2:6])
    assert crop_to_aspect(x, 8, 2).shape[-2:] == (2, 8)
    assert torch.equal(crop_to_aspect(x, 2, 1), x)


def test_halves_of_a_centre_crop_fall_where_comfyui_lets_them():
    assert torch.equal(crop_to_aspect(ramp(14, 12), 12, 13), ramp(14, 12)[:, :, 1:13])  # 0.5000000000000009 rows a side
    assert torch.equal(crop_to_aspect(ramp(13, 7), 7, 8), ramp(13, 7)[:, :, 3:10])  # 2.5000000000000004
    assert torch.equal(crop_to_aspect(ramp(4, 5), 4, 4), ramp(4, 5))  # 0.5, to the even side


@pytest.mark.parametrize("method", METHODS)
def test_a_centre_crop_leaves_something_of_a_line(method):
    assert resize(ramp(12, 1), 5, 5, method, "center").shape == (1, 1, 5, 5)
    assert crop_to_aspect(ramp(1, 20), 5, 9).shape[-2:] == (1, 2)


def test_lanczos_multiplies_alpha_in_as_pil_does():
    image = torch.rand(2, 9, 7, 4, generator=torch.Generator().manual_seed(0))
    expected = [np.asarray(picture.resize((5, 12), Picture.Resampling.LANCZOS), dtype=np.float32) / 255 for picture in to_pil(image)]
    assert np.array_equal(resize_image(image, 5, 12, "lanczos").numpy(), np.stack(expected))


def test_channels_are_fitted_by_opaque_alpha():
    image = torch.rand(1, 2, 3, 4)
    assert torch.equal(fit_channels(image, 3), image[..., :3])
    assert torch.equal(fit_channels(image[..., :3], 4), torch.cat([image[..., :3], torch.ones(1, 2, 3, 1)], -1))
    assert torch.equal(fit_channels(image, 4), image)


def test_bad_sizes_and_methods():
    x = ramp(4, 4)
    with pytest.raises(ValueError, match=r"upscale_method.*bislerp.*'cubic'"):
        resize(x, 2, 2, "cubic")
    with pytest.raises(ValueError, match="crop"):
        resize(x, 2, 2, "area", "middle")
    with pytest.raises(ValueError, match="0 x 2"):
        resize(x, 0, 2, "area")


@pytest.mark.parametrize(
    ("size", "expected"),
    [((0, 0), (300, 200)), ((150, 0), (150, 100)), ((0, 100), (150, 100)), ((64, 64), (64, 64)), ((1, 0), (1, 1))],
)
def test_a_zero_side_keeps_the_aspect(size, expected):
    assert complete_size(*size, 300, 200) == expected


def test_no_side_below_the_least():
    assert complete_size(16, 0, 512, 512, least=64) == (64, 64)
    assert complete_size(0, 32, 256, 1024, least=64) == (64, 64)
    assert complete_size(32, 512, 512, 512, least=64) == (64, 512)


def test_crop_to_multiple_is_central():
    x = ramp(19, 16)
    assert torch.equal(crop_to_multiple(x, 8), x[:, :, 1:17])


def test_bytes_are_truncated_and_survive_a_round_trip():
    image = torch.tensor([0.0, 0.999 / 255, 1.9 / 255, 0.5, 0.9999, 1.0, 1.7, -0.4]).reshape(1, 1, 8, 1)
    assert np.asarray(to_pil(image)[0]).flatten().tolist() == [0, 0, 1, 127, 254, 255, 255, 0]
    every = torch.arange(256).float().reshape(1, 16, 16, 1) / 255
    assert torch.equal(from_pil(to_pil(every)), every)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_modes(channels, mode):
    pictures = to_pil(torch.rand(2, 3, 5, channels))
    assert [p.mode for p in pictures] == [mode, mode]
    assert pictures[0].size == (5, 3)
    assert from_pil(pictures).shape == (2, 3, 5, channels)


def test_what_is_no_image():
    with pytest.raises(ValueError, match="image"):
        to_pil(torch.rand(3, 5, 3))
    with pytest.raises(ValueError, match="image"):
        to_pil(torch.rand(1, 3, 5, 2))
