import pytest
import torch

from graph_engine.errors import NodeError
from nodes.draw_strokes import DrawStrokes, read


def test_a_stroke_is_its_colour_where_it_lies_and_nothing_elsewhere(ctx):
    out = DrawStrokes(strokes="#ff8000 4: 2,8 14,8\n\n#0000ff 2: 8,8", width=16, height=16).run(ctx).pixels[0]
    assert out.shape == (16, 16, 4)
    assert torch.allclose(out[8, 4], torch.tensor([1.0, 128 / 255, 0.0, 1.0]))
    assert out[8, 8, 2] > 0.7  # the later one lies on top
    assert out[8, 8, 3] == 1
    assert not out[:5, ..., 3].any()
    assert not out[:5].any()
    length = out[..., 3].sum()
    assert length == pytest.approx(12 * 4 + 3.14159 * 4, rel=0.05)  # a bar with round ends


def test_colours_are_not_premultiplied(ctx):
    out = DrawStrokes(strokes="#ff8000 3: 8,8", width=16, height=16).run(ctx).pixels[0]
    edge = (out[..., 3] > 0) & (out[..., 3] < 1)
    assert edge.any()
    assert torch.allclose(out[edge][:, :3], torch.tensor([1.0, 128 / 255, 0.0]), atol=1e-4)


def test_a_path_has_corners():
    (stroke,) = read("#000000 1.5: 1,2 3.5,-4  5,6")
    assert stroke.points == ((1, 2), (3.5, -4), (5, 6))
    assert stroke.width == 1.5


@pytest.mark.parametrize("line", ["red 3: 1,2", "#ff00 3: 1,2", "#ff0000 3", "#ff0000 3: 1", "#ff0000 3: 1,2 3", "#ff0000 -3: 1,2"])
def test_lines_that_are_no_strokes_are_named(ctx, line):
    with pytest.raises(NodeError, match="strokes: line 2: '#rrggbb width: x,y x,y' is wanted, '"):
        DrawStrokes(strokes=f"#ffffff 1: 0,0\n{line}").run(ctx)
    assert [field for field, _ in DrawStrokes.check({"strokes": line})] == ["strokes"]
