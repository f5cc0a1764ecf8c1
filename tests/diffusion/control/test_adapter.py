from pathlib import Path

import pytest
import torch
from diffusers import T2IAdapter
from safetensors.torch import save_file

from diffusion.control.adapter import authors_names, from_tensors, halved
from diffusion.control.file import open_control
from diffusion.control.patch import Control
from diffusion.guidance import Conditional
from diffusion.session import open_session

SOURCE = Path("adapter")


@pytest.mark.parametrize(
    ("kind", "colors", "channels", "factor"),
    [
        ("full_adapter", 3, [8, 16, 32, 32], 8),
        ("full_adapter", 1, [8, 16, 32, 32], 8),
        ("light_adapter", 3, [8, 16, 32], 8),
        ("full_adapter_xl", 3, [8, 16, 32, 32], 16),
    ],
)
def test_features_are_those_of_diffusers(kind, colors, channels, factor):
    torch.manual_seed(0)
    blocks = 4 if kind == "light_adapter" else 2
    theirs = T2IAdapter(colors, channels, blocks, factor, kind)
    ours = from_tensors(theirs.state_dict(), torch.float32, SOURCE)
    hint = torch.rand(2, 3, 128, 128)
    with torch.no_grad():
        want = theirs(hint if colors == 3 else hint.mean(1, keepdim=True))
        found = ours(hint)
    assert [tuple(f.shape) for f in found] == [tuple(f.shape) for f in want]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, want, strict=True))
    names = authors_names(theirs.state_dict())
    assert not any("resnets" in name for name in names)
    assert all(torch.equal(a, b) for a, b in zip(from_tensors(names, torch.float32, SOURCE)(hint), found, strict=True))


def test_odd_sides_are_halved_upwards():
    x = torch.ones(1, 1, 5, 4)
    assert halved(x).shape == (1, 1, 3, 2)
    assert torch.equal(halved(torch.ones(1, 1, 4, 4)), torch.ones(1, 1, 2, 2))


def test_weights_that_are_no_adapter_are_refused():
    def refused(weights, reason):
        with pytest.raises(ValueError, match=reason) as problem:
            from_tensors(weights, torch.float32, SOURCE)
        assert "\n" not in str(problem.value)

    whole = T2IAdapter(3, [8, 16, 32, 32]).state_dict()
    without = {part: {name: w for name, w in whole.items() if part not in name} for part in ("adapter.conv_in", "body.1.in_conv.weight")}
    refused(without["adapter.conv_in"], r"adapter: no T2I-Adapter that is known: conv_in\.weight is missing")
    refused(without["body.1.in_conv.weight"], r"weights do not fit Adapter: ")
    wrong = "64 or 192 or 256 or 768 input channels are wanted, for grey or coloured pictures; it has 128"
    refused(T2IAdapter(2, [8, 16, 32, 32]).state_dict(), f"adapter: T2I-Adapter: {wrong}")
    refused(T2IAdapter(4, [8, 16], 4, 8, "light_adapter").state_dict(), "64 or 192 input channels are wanted.*; it has 256")


def test_features_are_added_at_the_end_of_each_level_as_diffusers_does(model, device, red, x, picture, folder, tmp_path):
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    theirs = T2IAdapter(3, [32, 64])
    for parameter in theirs.parameters():
        parameter.data *= 3
    save_file(theirs.state_dict(), tmp_path / "adapter.safetensors")
    net = open_control(tmp_path / "adapter.safetensors")
    assert net.kind == "adapter"
    with open_session(model.patched(Control(net, picture, strength=0.7)), Conditional(red), device) as session:
        found = session.denoise(x, 3.0)
        t = session.table.t(3.0)
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    with torch.no_grad():
        features = [f.expand(2, -1, -1, -1) * 0.7 for f in theirs(picture.movedim(-1, 1))]
        context = red.entries[0].embeds.expand(2, -1, -1)
        eps = unet(x / 10**0.5, t, context, down_intrablock_additional_residuals=features).sample
    assert torch.allclose(found, x - 3 * eps, atol=1e-4)


def test_an_adapter_of_another_model_is_told(model, device, red, x, picture, tmp_path):
    save_file(T2IAdapter(3, [16, 32]).state_dict(), tmp_path / "other.safetensors")
    patch = Control(open_control(tmp_path / "other.safetensors"), picture)
    with (
        open_session(model.patched(patch), Conditional(red), device) as net,
        pytest.raises(ValueError, match=r"its features 1 are \[16, 8, 8\], those of the model's down.0.attention.0 \[32, 8, 8\]"),
    ):
        net.denoise(x, 3.0)
