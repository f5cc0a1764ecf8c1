"""Difference masks against counting by hand."""

import pytest
import torch

from diffusion.sparse.difference import active, cells_of, difference, dilated


def test_one_channel_is_enough_and_the_threshold_itself_is_not():
    a = torch.zeros(2, 3, 4, 4)
    b = a.clone()
    b[0, 2, 1, 1], b[0, 0, 3, 3], b[1, 1, 0, 2] = 0.5, 0.25, -0.5
    found = difference(a, b, 0.25)
    assert found.nonzero().tolist() == [[0, 1, 1], [1, 0, 2]]
    with pytest.raises(ValueError, match=r"edited: shape \(2, 3, 4, 4\) is wanted"):
        difference(a, b[..., :3], 0.1)


def test_dilation_is_a_square_with_its_corners():
    mask = torch.zeros(7, 9, dtype=torch.bool)
    mask[3, 4] = True
    grown = dilated(mask, 2)
    assert grown.sum() == 25
    assert grown[1:6, 2:7].all()
    assert torch.equal(dilated(mask, 0), mask)


@pytest.mark.parametrize("size", [(16, 16), (8, 8), (5, 7), (4, 4), (32, 48), (1, 1)])
def test_a_single_cell_never_vanishes_and_nothing_stays_nothing(size):
    mask = torch.zeros(16, 16, dtype=torch.bool)
    assert not active(mask, size, 1).any()
    for place in [(0, 0), (15, 15), (7, 8)]:
        mask[:] = False
        mask[place] = True
        found = active(mask, size, 0)
        assert found.any()
        row, column = (place[i] * size[i] // 16 for i in (0, 1))
        assert found[row, column]
        assert (active(mask, size, 1) >= found).all()
    assert active(torch.ones(16, 16, dtype=torch.bool), size, 0).all()


def test_cells_are_touched_by_any_pixel_of_any_picture():
    mask = torch.zeros(2, 32, 32)
    mask[0, 9, 30], mask[1, 0, 0] = 0.01, 1.0
    assert cells_of(mask, (4, 4)).nonzero().tolist() == [[0, 0], [1, 3]]
    assert cells_of(mask, (32, 32)).sum() == 2
    assert cells_of(mask[:, :2, :2], (4, 4)).nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
