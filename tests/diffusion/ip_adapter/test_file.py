"""Files of IP-Adapters: what they are told by, pickles, and what is refused."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusion.convert import convert
from diffusion.files import ALLOW
from diffusion.ip_adapter.embed import combined, tokens
from diffusion.ip_adapter.file import open_ip_adapter


@pytest.mark.parametrize(("kind", "count"), [("plain", 4), ("plus", 16), ("full", 10)])
def test_kinds_are_told_by_their_projector(adapter_file, device, kind, count):
    adapter = open_ip_adapter(adapter_file("sd1", kind))
    assert (adapter.kind, adapter.reads, adapter.text, adapter.sites) == (kind, 24, 32, 16)
    embeds = torch.randn(2, 24) if kind == "plain" else torch.randn(2, 10, 24)
    assert tokens(adapter, embeds, device).shape == (1, 2 * count, 32)


@pytest.mark.parametrize("kind", ["faceid", "faceid-plus"])
def test_adapters_that_read_faces_are_refused_by_name(adapter_file, kind):
    with pytest.raises(ValueError, match=rf"sd1_{kind}_0\.safetensors: this is a FaceID IP-Adapter, which reads faces with InsightFace"):
        open_ip_adapter(adapter_file("sd1", kind))


def test_a_pickled_file_only_where_allowed_or_converted(make_ip_adapter, adapter_tensors, adapter_file, device, tmp_path, monkeypatch):
    monkeypatch.delenv(ALLOW, raising=False)
    path = make_ip_adapter.write(adapter_tensors("sd1", "plus"), tmp_path / "adapter.bin")
    with pytest.raises(ValueError, match=r"adapter\.bin: pickled files are not opened unless allowed"):
        open_ip_adapter(path)
    converted = convert(path)
    assert {name: tuple(t.shape) for name, t in load_file(converted).items()} == {
        name: tuple(t.shape) for name, t in adapter_tensors("sd1", "plus").items()
    }
    monkeypatch.setenv(ALLOW, "1")
    embeds = torch.randn(1, 10, 24)
    wanted = tokens(open_ip_adapter(adapter_file("sd1", "plus")), embeds, device)
    for each in (path, converted):
        assert torch.equal(tokens(open_ip_adapter(each), embeds, device), wanted)


def test_what_is_something_else_or_not_whole_is_refused(adapter_tensors, folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="an IP-Adapter file is wanted, nothing found"):
        open_ip_adapter(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match=r"diffusion_pytorch_model\.safetensors: an IP-Adapter is wanted .*; it has a U-Net"):
        open_ip_adapter(folder / "unet" / "diffusion_pytorch_model.safetensors")
    tensors = adapter_tensors("sd1", "plain")
    for gone, message in (
        ("ip_adapter.5.to_v_ip.weight", r"1 weights do not fit Adapter: ip_adapter\.5\.to_v_ip\.weight is missing"),
        ("image_proj.norm.weight", r"image_proj\.norm\.weight is missing in this IP-Adapter"),
        ("image_proj.norm.bias", r"image_proj\.norm\.bias is missing"),
    ):
        save_file({name: tensor for name, tensor in tensors.items() if name != gone}, tmp_path / "part.safetensors")
        with pytest.raises(ValueError, match=message):
            open_ip_adapter(tmp_path / "part.safetensors")
    save_file(tensors | {"image_proj.norm.weight": torch.ones(33)}, tmp_path / "odd.safetensors")
    with pytest.raises(ValueError, match="weights do not fit Adapter"):
        open_ip_adapter(tmp_path / "odd.safetensors")
    unknown = {f"image_proj.net.{i}": torch.ones(1) for i in range(3)}
    save_file({"ip_adapter.1.to_k_ip.weight": torch.ones(2, 2), **unknown}, tmp_path / "unknown.safetensors")
    with pytest.raises(ValueError, match=r"unknown\.safetensors: its projector is of no known kind \(net\.0, net\.1, net\.2\)"):
        open_ip_adapter(tmp_path / "unknown.safetensors")


def test_several_pictures_as_one():
    x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    assert combined(x, "concat") is x
    torch.testing.assert_close(combined(x, "add")[0], x[0] + x[1] + x[2])
    torch.testing.assert_close(combined(x, "subtract")[0], x[0] - (x[1] + x[2]) / 2)
    torch.testing.assert_close(combined(x, "average")[0], (x[0] + x[1] + x[2]) / 3)
    lengths = x.square().sum(0).sqrt()
    torch.testing.assert_close(combined(x, "norm average")[0], (x[0] + x[1] + x[2]) / 3 / lengths)
    for how in ("add", "subtract", "average", "norm average"):
        assert torch.equal(combined(x[:1], how), x[:1])
