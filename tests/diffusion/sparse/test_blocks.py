"""Single blocks on a region against the whole: specification 3, test 1."""

import pytest
import torch
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.upsampling import Upsample2D
from torch import nn

from diffusion.patch import Block, BlockCall, Moment, Rows
from diffusion.sparse.blocks import fresh, noted
from diffusion.sparse.cache import Layer
from diffusion.sparse.difference import dilated
from diffusion.sparse.normalise import normalised, statistics
from diffusion.sparse.region import scatter, tiles, window
from diffusion.sparse.speak import speaking

MASKS = ["middle", "border", "scattered"]
MOMENT = Moment(0, 1, 1.0, 500)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def edited(kind: str, size: tuple[int, int]) -> torch.Tensor:
    mask = torch.zeros(size, dtype=torch.bool)
    if kind == "middle":
        mask[size[0] // 2 : size[0] // 2 + 2, size[1] // 3 : size[1] // 3 + 3] = True
    elif kind == "border":
        mask[-2:, :2] = True
    else:
        mask[0, 0] = mask[size[0] // 2, -1] = mask[-1, size[1] // 2] = True
    return mask


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("size", [(16, 16), (13, 18)])
@pytest.mark.parametrize("cut", [window, tiles])
@pytest.mark.parametrize("out_channels", [16, 24])  # 24: with a shortcut convolution
def test_a_resnet_block_is_dense_on_its_region(exact, kind, size, cut, out_channels):
    module = ResnetBlock2D(in_channels=16, out_channels=out_channels, temb_channels=8, groups=4).eval()
    temb = numbers(2, 8)
    block, rows = Block("b", "resnet", "down", 0, 0, 1), Rows((("positive", 0, 2),), 2)
    mask = edited(kind, size)
    x = numbers(2, 16, *size)
    y = torch.where(mask, x + 2 * numbers(2, 16, *size, seed=1), x)
    with noted(block, module) as norms:
        original = module(x, temb)
    layer = Layer("b", original, tuple(norms.items()))
    with_frozen = [
        speaking(norm, lambda h, name=name, norm=norm: normalised(h, norms[name], norm))
        for name, norm in (("norm1", module.norm1), ("norm2", module.norm2))
    ]
    if exact:
        dense = module(y, temb)
    else:
        with with_frozen[0], with_frozen[1]:
            dense = module(y, temb)
    region = cut(dilated(mask, 2))  # what two 3 × 3 convolutions reach
    part = fresh(block, module, BlockCall(y, block, rows, MOMENT), lambda call: module(call.h, temb), region, layer, exact)
    sparse = scatter(original.clone(), region, part)
    assert (sparse - original).abs().max() > 0.1
    inside = scatter(torch.zeros_like(original), region, torch.ones_like(part)) > 0
    torch.testing.assert_close(sparse[inside], dense[inside], rtol=1e-5, atol=1e-5)
    assert torch.equal(sparse[~inside], original[~inside])
    if not exact:  # outside of what the edit reaches nothing has changed in the dense one, either
        torch.testing.assert_close(sparse, dense, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(module(x, temb), original, rtol=0, atol=0)  # nothing is left behind


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("size", [(16, 16), (13, 18)])
@pytest.mark.parametrize("cut", [window, tiles])
def test_samplers_and_convolutions_are_dense_on_their_region(kind, size, cut):
    x = numbers(2, 8, *size)
    rows = Rows((("positive", 0, 2),), 2)
    for block_kind, place, module in [
        ("sampler", "down", Downsample2D(8, use_conv=True, padding=1)),
        ("sampler", "down", Downsample2D(8, use_conv=True, padding=0)),
        ("sampler", "up", Upsample2D(8, use_conv=True)),
        ("conv", "in", nn.Conv2d(8, 6, 3, padding=1)),
    ]:
        block = Block("b", block_kind, place, 0, 0, 1)
        dense = module(x)
        region = cut(edited(kind, tuple(dense.shape[2:])))
        part = fresh(block, module, BlockCall(x, block, rows, MOMENT), lambda call: None, region, Layer("b", dense), False)
        torch.testing.assert_close(scatter(dense.clone(), region, part), dense, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("cut", [window, tiles])
def test_a_transformer_without_self_attention_is_dense_on_its_region(linear, cut):
    """Attention to text and the rest act on single cells; keys and values of the picture are the attention seam's."""
    size = (13, 18)
    module = Transformer2DModel(2, 8, in_channels=16, norm_num_groups=4, cross_attention_dim=12, use_linear_projection=linear).eval()
    for inner in module.transformer_blocks:
        inner.attn1.forward = lambda h, **_: torch.zeros_like(h)
    context, mask, x = numbers(2, 5, 12), edited("scattered", size), numbers(2, 16, *size)
    y = torch.where(mask, x + 1, x)
    block, rows = Block("b", "attention", "down", 0, 0, 1), Rows((("positive", 0, 2),), 2)
    with noted(block, module) as norms:
        original = module(x, context, return_dict=False)[0]
    region = cut(mask)
    layer = Layer("b", original, tuple(norms.items()))
    call = BlockCall(y, block, rows, MOMENT)
    part = fresh(block, module, call, lambda call: module(call.h, context, return_dict=False)[0], region, layer, True)
    dense = module(y, context, return_dict=False)[0]
    inside = scatter(torch.zeros_like(dense), region, torch.ones_like(part)) > 0
    torch.testing.assert_close(scatter(original.clone(), region, part)[inside], dense[inside], rtol=1e-5, atol=1e-5)


def test_statistics_are_those_of_group_normalisation():
    norm = nn.GroupNorm(3, 12)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = numbers(2, 12, 7, 5) + 3
    torch.testing.assert_close(normalised(x, statistics(x, 3), norm), norm(x), rtol=1e-5, atol=1e-5)
