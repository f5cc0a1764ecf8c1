"""Segmentation by colour against the renderer's own masks."""

import pytest
import torch

from toybox.scenes import render, sample
from toybox.segment import background_colors, centroid, iou, segment, segment_colors

SCENES = [sample(10_900_000 + seed) for seed in range(96)]


@pytest.fixture(scope="module")
def rendered() -> tuple[torch.Tensor, torch.Tensor]:
    return render(SCENES)


def test_backgrounds_are_named(rendered: tuple[torch.Tensor, torch.Tensor]) -> None:
    assert background_colors(rendered[0]) == [scene.background.color for scene in SCENES]


def test_silhouettes_are_found_on_every_texture(rendered: tuple[torch.Tensor, torch.Tensor]) -> None:
    images, masks = rendered
    found, true = segment(images), masks.sum(1)
    assert found.shape == true.shape
    assert set(found.unique().tolist()) == {0.0, 1.0}
    assert iou(found, true).mean() > 0.9
    assert (iou(found, true) > 0.8).float().mean() > 0.9
    assert (centroid(found) - centroid(true)).norm(dim=1).median() < 0.5


def test_noise_does_not_scatter_specks(rendered: tuple[torch.Tensor, torch.Tensor]) -> None:
    images, masks = rendered
    noisy = (images + 0.03 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    assert iou(segment(noisy), masks.sum(1)).mean() > 0.85


def test_two_objects_come_apart_by_their_colours(rendered: tuple[torch.Tensor, torch.Tensor]) -> None:
    images, masks = rendered
    pairs = [n for n, scene in enumerate(SCENES) if len(scene.objects) == 2]
    colors = [[obj.color for obj in SCENES[n].objects] for n in pairs]
    found = segment_colors(images[pairs], colors, [SCENES[n].background.color for n in pairs])
    assert iou(found, masks[pairs]).mean() > 0.85
    assert (found.sum(1) <= 1).all()


def test_the_counterfactual_moves_the_centroid() -> None:
    scene = sample(5, 1, position="left", size="medium", color="red", background_color="white", texture="plain")
    images, _ = render([scene, scene.replace(position="right")])
    assert torch.allclose(centroid(segment(images)).diff(dim=0), torch.tensor([[66.0, 0.0]]), atol=0.5)


def test_overlap_of_masks() -> None:
    a, b = torch.zeros(4, 4), torch.zeros(4, 4)
    a[:2], b[1:3] = 1, 1
    assert iou(a, b).item() == pytest.approx(1 / 3)
    assert iou(a, a).item() == iou(a * 0, a * 0).item() == 1
    assert centroid(a).tolist() == [2, 1]
    assert centroid(a * 0).isnan().all()


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="are wanted, not"):
        segment(torch.zeros(3, 128, 128))
    with pytest.raises(ValueError, match="unknown colour 'grey'"):
        segment(torch.zeros(1, 8, 8, 3), ["grey"])
    with pytest.raises(ValueError, match="1 pictures, but 2"):
        segment(torch.zeros(1, 8, 8, 3), ["red", "blue"])
