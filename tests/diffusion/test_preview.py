import json
from io import BytesIO

import pytest
import torch
from PIL import Image as Picture

from diffusion.preview import FILE, PROJECTIONS, Projection, jpeg, projection
from diffusion.values import WeightsRef


def ref(source: str, family: str = "sd1") -> WeightsRef:
    return WeightsRef(family, source, "unet", "")


def test_a_folder_of_its_own_colours_goes_before_the_family(tmp_path):
    own, plain = tmp_path / "own", tmp_path / "plain"
    own.mkdir()
    (own / FILE).write_text(json.dumps({"weight": [[1, 0, 0], [0, 1, 0]], "bias": [0.1, 0.2, 0.3]}))
    assert projection(ref(str(own))) == Projection(((1, 0, 0), (0, 1, 0)), (0.1, 0.2, 0.3))
    assert projection(ref(str(plain))) is PROJECTIONS["sd1"]


def test_colours_are_linear_and_clipped():
    use = Projection(((1, 0, 0), (0, 2, 0)), (0, 0, 0.5))
    x = torch.tensor([0.5, 0.25])[None, :, None, None].expand(1, 2, 2, 3)
    assert use(x).shape == (1, 2, 3, 3)
    assert use(x)[0, 0, 0].tolist() == [0.5, 0.5, 0.5]
    assert use(x * 100)[0, 0, 0].tolist() == [1, 1, 0.5]


@pytest.mark.parametrize(("cells", "wanted"), [((16, 12), (96, 128)), ((100, 200), (512, 256))])
def test_a_preview_is_a_jpeg_of_bounded_size(tmp_path, cells, wanted):
    data = jpeg(torch.randn(2, 4, *cells), ref(str(tmp_path)))
    with Picture.open(BytesIO(data)) as picture:
        assert (picture.format, picture.size) == ("JPEG", wanted)


def test_a_family_without_a_projection_shows_grey(tmp_path):
    data = jpeg(torch.ones(1, 16, 4, 4), ref(str(tmp_path), "unknown"))
    with Picture.open(BytesIO(data)) as picture:
        assert picture.convert("RGB").getpixel((0, 0)) == pytest.approx((166, 166, 166), abs=2)
