import pytest
import torch

from diffusion import hints
from diffusion.values import Image, Mask
from graph_engine.errors import NodeError
from nodes.preprocess import Canny, DepthFromImage, NormalFromDepth, ScribbleFromEdges, SegmentPalette, TilePreprocessor

PICTURE = Image(torch.rand(2, 24, 32, 3, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize(
    "node", [Canny(image=PICTURE), ScribbleFromEdges(image=PICTURE), TilePreprocessor(image=PICTURE), DepthFromImage(image=PICTURE)]
)
def test_pictures_keep_their_size_and_number(ctx, node):
    out = node.run(ctx).pixels
    assert out.shape == PICTURE.pixels.shape
    assert out.min() >= 0
    assert out.max() <= 1


def test_defaults_are_those_of_saved_graphs(ctx):
    assert torch.equal(Canny(image=PICTURE).run(ctx).pixels, hints.canny(PICTURE.pixels, 0.4, 0.8))


def test_thresholds_in_the_wrong_order_are_told(ctx):
    with pytest.raises(NodeError, match="low_threshold: at most"):
        Canny(image=PICTURE, low_threshold=0.9, high_threshold=0.2).run(ctx)


def test_near_may_be_black(ctx):
    white, black = (DepthFromImage(image=PICTURE, near=near).run(ctx).pixels for near in ("white", "black"))
    assert torch.allclose(white + black, torch.ones_like(white), atol=1e-5)


def test_segments_count_on_from_the_first_colour(ctx):
    out = SegmentPalette(masks=Mask(torch.ones(1, 4, 4)), first=2).run(ctx).pixels
    assert torch.allclose(out[0, 0, 0], torch.tensor(hints.segment_color("ade20k", 2)))


def test_normals_come_with_their_foreground(ctx):
    out = NormalFromDepth(depth=PICTURE, background_threshold=0.5).run(ctx)
    assert out.foreground.values.shape == (2, 24, 32)
    far = out.image.pixels[out.foreground.values == 0]
    assert torch.allclose(far, torch.tensor([0.5, 0.5, 1.0]).expand_as(far))
