import math

import pytest
import torch

from diffusion import hints


def disc(side=64, radius=18.0):
    line = torch.arange(side) + 0.5 - side / 2
    inside = (line[:, None] ** 2 + line[None, :] ** 2) <= radius**2
    return inside.float()[None, ..., None].expand(-1, -1, -1, 3)


def test_edges_of_a_disc_lie_on_its_rim_one_pixel_wide():
    edges = hints.canny(disc(), 0.4, 0.8)
    assert edges.shape == (1, 64, 64, 3)
    assert set(edges.unique().tolist()) == {0.0, 1.0}
    y, x = edges[0, ..., 0].nonzero().T
    radii = ((x - 31.5) ** 2 + (y - 31.5) ** 2).sqrt()
    assert (radii - 18).abs().max() < 1.5
    assert 0.75 * math.tau * 18 < len(x) < 1.25 * math.tau * 18


def test_weak_edges_count_only_where_they_touch_strong_ones():
    picture = torch.zeros(1, 40, 40, 3)
    picture[:, :, 20:] = torch.linspace(0.12, 1, 40)[None, :, None, None]  # one edge that grows steeper downwards
    picture[:, :20, 5:12] = 0.14  # a weak edge far from any strong one
    strong, weak = hints.canny(picture, 0.8, 0.8)[..., 0], hints.canny(picture, 0.25, 0.25)[..., 0]
    both = hints.canny(picture, 0.25, 0.8)[..., 0]
    assert both[0, :, 17:23].sum() > strong[0, :, 17:23].sum()
    assert torch.equal(both[0, :, 17:23], weak[0, :, 17:23])
    assert weak[0, :, :14].sum() > 10
    assert both[0, :, :14].sum() == 0


def test_an_even_picture_has_no_edges_and_thresholds_are_ordered():
    assert hints.canny(torch.full((2, 16, 16, 3), 0.7), 0.01, 0.02).sum() == 0
    with pytest.raises(ValueError, match=r"at most the high_threshold 0\.2 is wanted, 0\.4 given"):
        hints.canny(disc(), 0.4, 0.2)


def test_scribbles_cover_the_lines_at_the_asked_thickness():
    lines = torch.zeros(1, 41, 41, 3)
    lines[:, 20, 5:36] = 1
    for thickness in (1, 5, 9):
        out = hints.scribble(lines, thickness)[0, ..., 0]
        assert (out >= lines[0, ..., 0]).all()
        assert abs(out[:, 20].sum().item() - thickness) <= 1


def test_segments_in_their_colours_later_ones_on_top():
    masks = torch.zeros(2, 4, 4)
    masks[0, :, :3] = 1
    masks[1, :, 2:] = 1
    out = hints.segment_map(masks, "ade20k", 0)
    assert (out[0, 0, 0] * 255).round().tolist() == [120, 120, 120]
    assert (out[0, 0, 2] * 255).round().tolist() == [180, 120, 120]
    assert len(hints.ADE20K) == 150
    assert hints.segment_color("ade20k", 150) == hints.segment_color("ade20k", 0)
    colors = torch.tensor([hints.segment_color("distinct", i) for i in range(12)])
    assert (torch.cdist(colors, colors) + 9 * torch.eye(12)).min() > 0.15


def test_tiles_keep_coarse_colours_and_size():
    picture = torch.rand(1, 32, 48, 3, generator=torch.Generator().manual_seed(0))
    squares = hints.tile(picture, 8, "nearest-exact")
    assert squares.shape == picture.shape
    assert torch.allclose(squares[0, :8, :8], picture[0, :8, :8].mean((0, 1)).expand(8, 8, 3), atol=1e-5)
    assert hints.tile(picture, 1, "nearest-exact").equal(picture)


def test_depth_fills_the_range():
    ramp = torch.linspace(0.2, 0.6, 9)[None, None, :, None].expand(2, 5, 9, 3)
    assert torch.allclose(hints.depth(ramp, False)[0, 0, :, 0], torch.linspace(0, 1, 9), atol=1e-5)
    assert torch.allclose(hints.depth(ramp, True)[0, 0, :, 0], torch.linspace(1, 0, 9), atol=1e-5)
    assert hints.depth(torch.full((1, 4, 4, 3), 0.3), True).sum() == 0


def test_normals_of_a_plane_point_against_its_slope_whatever_the_resolution():
    def plane(side):
        return torch.linspace(0, 1, side)[None, None, :, None].expand(1, side, side, 3)

    found = [hints.normals(plane(side), 6.28, 0.0)[0][0, side // 2, side // 2] * 2 - 1 for side in (32, 64)]
    assert torch.allclose(found[0].norm(), torch.tensor(1.0), atol=1e-5)
    assert found[0][0] < -0.2  # rises to the right: faces left
    assert abs(found[0][1]) < 1e-5
    assert torch.allclose(found[0], found[1], atol=0.02)
    down, _ = hints.normals(plane(32).transpose(1, 2), 6.28, 0.0)
    assert down[0, 16, 16, 1] > 0.6  # rises downwards: faces up, which is green


def test_the_background_faces_the_eye():
    picture, near = hints.normals(disc(), 6.28, 0.5)
    assert near.equal(disc()[..., 0])
    assert torch.allclose(picture[0, 0, 0], torch.tensor([0.5, 0.5, 1.0]))
    with pytest.raises(ValueError, match="2 × 2"):
        hints.normals(torch.zeros(1, 1, 5, 3), 1, 0)
