import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from diffusion.values import Image
from graph_engine.errors import NodeError
from nodes.clip_vision import CLIPVisionEncode, CLIPVisionLoader


@pytest.fixture(scope="module")
def tool():
    path = Path(__file__).parents[1] / "tools" / "make_ip_adapter.py"
    spec = importlib.util.spec_from_file_location("make_ip_adapter", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_ip_adapter"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def files(folders, tool):
    place = folders.base / "models" / "clip_vision"
    place.mkdir(parents=True)
    save_file(tool.vision("hf", 64, 24, layers=2, side=28), place / "small.safetensors")
    save_file({"a": torch.ones(1)}, place / "other.safetensors")


def test_a_picture_encoder_says_something_of_each_picture(ctx, files):
    vision = CLIPVisionLoader(clip_name="small.safetensors").run(ctx)
    wide = Image(torch.rand(17, 28, 56, 3, generator=torch.Generator().manual_seed(0)))
    out = CLIPVisionEncode(clip_vision=vision, image=wide).run(ctx)
    assert (out.embeds.shape, out.penultimate.shape, out.last.shape) == ((17, 24), (17, 5, 64), (17, 5, 64))
    middle = CLIPVisionEncode(clip_vision=vision, image=Image(wide.pixels[:, :, 14:42])).run(ctx)
    torch.testing.assert_close(out.embeds, middle.embeds)  # center: the rest is not looked at
    squashed = CLIPVisionEncode(clip_vision=vision, image=wide, crop="none").run(ctx)
    assert (squashed.embeds - out.embeds).abs().max() > 1e-3


def test_another_file_is_refused_by_name(ctx, files):
    with pytest.raises(NodeError, match=r"clip_name: other\.safetensors: a CLIP picture encoder is wanted"):
        CLIPVisionLoader(clip_name="other.safetensors").run(ctx)
