"""Windows and tiles: what is gathered, convolved and scattered is what a whole map would have there."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from diffusion.sparse.convolve import convolve
from diffusion.sparse.region import chosen, convolved, gather, inside, places, scatter, tiles, window

SIZES = [(16, 16), (13, 18), (5, 3)]


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def masks(size):
    middle, corners = (torch.zeros(size, dtype=torch.bool) for _ in range(2))
    middle[size[0] // 2, size[1] // 3 : size[1] // 3 + 2] = True
    corners[0, 0] = corners[-1, -1] = corners[-1, 0] = True
    return [middle, corners]


def regions(size):
    return [kind(mask) for mask in masks(size) for kind in (window, tiles)]


def covered(region):
    """Where a region's cells are, drawn one rectangle after the other."""
    found = torch.zeros(region.size, dtype=torch.bool)
    for top, left in region.corners:
        assert not found[top : top + region.height, left : left + region.width].any()
        found[top : top + region.height, left : left + region.width] = True
    return found


@pytest.mark.parametrize("size", SIZES)
def test_every_active_cell_is_in_the_region(size):
    for mask in masks(size):
        for mode in ("window", "tile", "auto"):
            region = chosen(mask, mode)
            assert (covered(region) >= mask).all()
            index, _ = places(region, torch.device("cpu"))
            assert torch.equal(index.sort().values, covered(region).flatten().nonzero().flatten())
        assert chosen(mask, "auto").cost() == min(window(mask).cost(), tiles(mask).cost())
    assert len(chosen(torch.zeros(size, dtype=torch.bool), "auto")) == 0


@pytest.mark.parametrize("size", SIZES)
def test_scatter_undoes_gather_and_leaves_the_rest(size):
    x, other = numbers(2, 3, *size), numbers(2, 3, *size, seed=1)
    for region in regions(size):
        out = scatter(other.clone(), region, gather(x, region))
        assert torch.equal(out, torch.where(covered(region), x, other))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [5, 200])  # many: few cells are convolved as a matrix product
def test_a_convolution_of_the_region_is_the_whole_one_there(size, channels):
    conv = nn.Conv2d(channels, 7, 3, padding=1).requires_grad_(False)
    down = nn.Conv2d(channels, 7, 3, padding=1, stride=2).requires_grad_(False)
    x = numbers(2, channels, *size)
    cases = [(conv(x), lambda r: convolved(conv, gather(x, r, 1), r))]
    cases.append((down(x), lambda r: convolved(down, gather(x, r, 1, stride=2, before=1), r)))
    asymmetric = F.conv2d(F.pad(x, (0, 1, 0, 1)), down.weight, down.bias, stride=2)
    cases.append((asymmetric, lambda r: convolved(down, gather(x, r, 1, stride=2, before=0), r)))
    for larger in [(size[0] * 2, size[1] * 2), (size[0] * 2 - 1, size[1] * 2 - 1)]:
        whole = conv(F.interpolate(x, larger, mode="nearest"))
        cases.append((whole, lambda r, larger=larger: convolved(conv, gather(x, r, 1, enlarged=larger), r)))
    for whole, sparse in cases:
        for region in regions(tuple(whole.shape[2:])):
            out = scatter(torch.zeros_like(whole), region, sparse(region))
            torch.testing.assert_close(out, whole * covered(region), rtol=1e-5, atol=1e-5)


def test_what_lies_beyond_the_border_is_known():
    region = window(torch.ones(4, 6, dtype=torch.bool))
    on = inside(region, 1, torch.device("cpu"))
    assert on.shape == (6, 8)
    assert on.sum() == 24
    inner = torch.zeros(9, 9, dtype=torch.bool)
    inner[4, 4] = True
    assert inside(window(inner), 2, torch.device("cpu")) is None


@pytest.mark.parametrize(("stride", "padding", "kernel"), [(1, 1, 3), (2, 1, 3), (1, 0, 1), (2, 0, 3)])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_matrix_product_is_the_convolution(stride, padding, kernel, batch):
    conv = nn.Conv2d(300, 280, kernel, stride=stride, padding=padding).requires_grad_(False)
    for side in (3, 5, 24):
        x = numbers(batch, 300, side, side + 1)
        torch.testing.assert_close(convolve(conv, x), conv(x), rtol=1e-4, atol=1e-5)
