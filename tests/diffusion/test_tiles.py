from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from diffusion.tiles import feather, starts, thrice, tiled


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 40), (33, 9), (64, 50)])
@pytest.mark.parametrize(("overlap", "scale"), [(0, 1), (3, 2), (4, 4)])
def test_a_network_that_looks_at_single_pixels_gives_the_same_in_tiles(height, width, overlap, scale):
    def enlarge(x):
        return F.interpolate(x * 2 - 1, scale_factor=scale, mode="nearest")

    x = noise(2, 3, height, width)
    torch.testing.assert_close(tiled(x, enlarge, (16, 12), overlap, scale), enlarge(x))


def test_no_tile_is_larger_than_asked_and_a_small_picture_goes_through_whole():
    seen = []

    def look(x):
        seen.append(tuple(x.shape[2:]))
        return x

    tiled(noise(1, 1, 40, 20), look, (16, 32), 4, 1)
    assert seen == [(16, 20), (16, 20), (16, 20)]
    seen.clear()
    tiled(noise(1, 1, 8, 8), look, (16, 32), 4, 1)
    assert seen == [(8, 8)]


def test_tiles_reach_the_end_and_overlap_at_least_as_much_as_asked():
    for size in range(1, 100):
        first = starts(size, 16, 4)
        assert first[-1] + 16 >= size
        assert all(b - a == 12 for a, b in pairwise(first))


def test_the_weights_of_a_seam_rise_linearly():
    assert feather(6, 3, torch.ones(1)).tolist() == pytest.approx([1 / 3, 2 / 3, 1, 1, 2 / 3, 1 / 3])
    assert feather(3, 3, torch.ones(1)).tolist() == [1, 1, 1]


def test_an_overlap_as_wide_as_the_tile_is_refused():
    with pytest.raises(ValueError, match="less than the tile's 8"):
        tiled(noise(1, 1, 20, 20), lambda x: x, (8, 16), 8, 1)


def test_three_tilings_have_square_flat_and_tall_tiles():
    seen = set()

    def look(x):
        seen.add(tuple(x.shape[2:]))
        return x

    x = noise(1, 1, 100, 100)
    torch.testing.assert_close(thrice(x, look, 16, 4, 1), x)
    assert {(16, 16), (32, 8), (8, 32)} <= seen
