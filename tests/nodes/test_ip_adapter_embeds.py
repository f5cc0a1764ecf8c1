import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from diffusion.ip_adapter.embed import tokens
from diffusion.values import Image, Mask
from graph_engine.errors import NodeError
from nodes.clip_vision import CLIPVisionEncode, CLIPVisionLoader
from nodes.ip_adapter import IPAdapterAdvanced, IPAdapterModelLoader
from nodes.ip_adapter_embeds import IPAdapterCombineEmbeds, IPAdapterEmbeds, IPAdapterEncoder

PICTURES = torch.rand(3, 32, 32, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def tool():
    path = Path(__file__).parents[1] / "tools" / "make_ip_adapter.py"
    spec = importlib.util.spec_from_file_location("make_ip_adapter", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_ip_adapter"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def load(ctx, folders, tool, tiny_folder):
    widths = tool.widths_in(tiny_folder / "unet")
    for kind, tensors in {
        "ipadapter/plain": tool.make("plain", *widths, 24),
        "ipadapter/plus": tool.make("plus", *widths, 64),
        "clip_vision/small": tool.vision("hf", 64, 24, layers=2, side=28),
    }.items():
        path = folders.base / "models" / f"{kind}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path)

    def of(name):
        if name == "small":
            return CLIPVisionLoader(clip_name="small.safetensors").run(ctx)
        return IPAdapterModelLoader(ipadapter_file=f"{name}.safetensors").run(ctx)

    return of


@pytest.mark.parametrize("kind", ["plain", "plus"])
def test_the_parts_together_are_the_whole(ctx, load, model, kind):
    adapter, vision = load(kind), load("small")
    (whole,) = IPAdapterAdvanced(model=model, ipadapter=adapter, image=Image(PICTURES), clip_vision=vision).run(ctx).patches
    encoded = IPAdapterEncoder(ipadapter=adapter, image=Image(PICTURES), clip_vision=vision).run(ctx)
    seen = CLIPVisionEncode(clip_vision=vision, image=Image(PICTURES)).run(ctx)
    for told in ({"pos_embed": encoded.pos_embed, "neg_embed": encoded.neg_embed}, {"pos_embed": seen, "clip_vision": vision}):
        (patch,) = IPAdapterEmbeds(model=model, ipadapter=adapter, **told).run(ctx).patches
        assert torch.equal(patch.positive, whole.positive)
        assert torch.equal(patch.negative, whole.negative)


def test_pictures_may_count_differently(ctx, load, device):
    adapter, vision = load("plain"), load("small")

    def encode(i, weight=1.0, **more):
        node = IPAdapterEncoder(ipadapter=adapter, image=Image(PICTURES[i : i + 1]), weight=weight, clip_vision=vision, **more)
        return node.run(ctx).pos_embed

    one, two = encode(0, 0.25), encode(1, 0.75)
    torch.testing.assert_close(one.values, encode(0).values * 0.25)
    added = IPAdapterCombineEmbeds(embed1=one, embed2=two, method="add").run(ctx)
    torch.testing.assert_close(added.values, one.values + two.values)
    most, least = (IPAdapterCombineEmbeds(embed1=one, embed2=two, method=how).run(ctx).values for how in ("max", "min"))
    torch.testing.assert_close(most + least, one.values + two.values)
    assert (most >= least).all()
    assert IPAdapterCombineEmbeds(embed1=one, embed2=two, embed4=one).run(ctx).values.shape == (3, 24)
    assert tokens(adapter, added.values, device).shape == (1, 4, 32)
    black, hidden = encode(0, mask=Mask(torch.zeros(1, 8, 8))), Image(torch.zeros(1, 32, 32, 3))
    torch.testing.assert_close(
        black.values, IPAdapterEncoder(ipadapter=adapter, image=hidden, clip_vision=vision).run(ctx).pos_embed.values
    )


def test_mistakes_are_named(ctx, load, model):
    vision = load("small")
    plain, plus = (
        IPAdapterEncoder(ipadapter=load(kind), image=Image(PICTURES), clip_vision=vision).run(ctx).pos_embed for kind in ("plain", "plus")
    )
    with pytest.raises(NodeError, match="embed2 …: what one adapter reads is wanted, embeds of several kinds given"):
        IPAdapterCombineEmbeds(embed1=plain, embed2=plus).run(ctx)
    with pytest.raises(NodeError, match="pos_embed, neg_embed: these were made for another kind of IP-Adapter"):
        IPAdapterEmbeds(model=model, ipadapter=load("plain"), pos_embed=plus).run(ctx)
    with pytest.raises(NodeError, match="clip_vision: an encoder is wanted, none given; connect Load CLIP Vision, or a neg_embed"):
        IPAdapterEmbeds(model=model, ipadapter=load("plus"), pos_embed=plus).run(ctx)
    with pytest.raises(NodeError, match="clip_vision: an encoder is wanted, none given"):
        IPAdapterEncoder(ipadapter=load("plus"), image=Image(PICTURES)).run(ctx)
    assert IPAdapterEmbeds(model=model, ipadapter=load("plain"), pos_embed=plain, weight=0).run(ctx) is model
