import importlib.util

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from diffusion.memory import TorchDevice
from diffusion.upscale import UpscaleModel, upscaled
from diffusion.values import Image, WeightsRef
from graph_engine.errors import NodeError
from nodes.upscale_model import ImageUpscaleWithModel, UpscaleModelLoader

HAS_SPANDREL = importlib.util.find_spec("spandrel") is not None
MODEL = UpscaleModel(WeightsRef("upscaler", "/x", "upscaler", "0", "float32"))


class Twice(torch.nn.Module):
    """Each pixel twice as wide and high, a little too bright; runs out of memory above a size."""

    scale = 2

    def __init__(self, fits: int = 10**6) -> None:
        super().__init__()
        self.fits, self.seen = fits, []

    def forward(self, x):
        self.seen.append(max(x.shape[2:]))
        if max(x.shape[2:]) > self.fits:
            raise torch.OutOfMemoryError("no room")
        return F.interpolate(x, scale_factor=2, mode="nearest") * 1.5


def device_with(module: torch.nn.Module) -> TorchDevice:
    return TorchDevice("cpu", load=lambda ref, dtype: module)


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("channels", [3, 4])
def test_the_result_is_clipped_and_made_in_tiles(channels):
    module, heard = Twice(), []
    pixels = noise(2, 40, 600, channels)
    out = upscaled(MODEL, pixels, device_with(module), lambda: heard.append(1))
    wanted = (pixels[..., :3].repeat_interleave(2, 1).repeat_interleave(2, 2) * 1.5).clamp(0, 1)
    torch.testing.assert_close(out, wanted)
    assert len(heard) == len(module.seen) == 4
    assert max(module.seen) <= 512


def test_tiles_are_halved_until_they_fit_but_not_below_128():
    module = Twice(fits=200)
    assert upscaled(MODEL, noise(1, 300, 300, 3), device_with(module)).shape == (1, 600, 600, 3)
    assert [size for size in dict.fromkeys(module.seen) if size > 100][:3] == [300, 256, 128]
    with pytest.raises(torch.OutOfMemoryError):
        upscaled(MODEL, noise(1, 300, 300, 3), device_with(Twice(fits=100)))


@pytest.fixture
def folder(folders):
    place = folders.base / "models" / "upscale_models"
    place.mkdir(parents=True)
    return place


@pytest.mark.skipif(HAS_SPANDREL, reason="spandrel is installed")
def test_without_spandrel_the_loader_says_what_to_install(ctx, folder):
    save_file({"model.0.weight": torch.zeros(1)}, folder / "4x.safetensors")
    with pytest.raises(NodeError, match=r"model_name: upscale models need the package spandrel; install latentgraph\[upscale\]"):
        UpscaleModelLoader(model_name="4x.safetensors").run(ctx)


def esrgan() -> dict[str, torch.Tensor]:
    """Random weights of a twofold ESRGAN in its original layout: one residual block of 16 channels."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}

    def conv(name, out, inputs):
        tensors[f"{name}.weight"] = torch.randn(out, inputs, 3, 3, generator=generator) * 0.1
        tensors[f"{name}.bias"] = torch.zeros(out)

    conv("model.0", 16, 3)
    for block in (1, 2, 3):
        for i in range(1, 6):
            conv(f"model.1.sub.0.RDB{block}.conv{i}.0", 16 if i == 5 else 32, 16 + 32 * (i - 1))
    conv("model.1.sub.1", 16, 16)
    conv("model.3", 16, 16)
    conv("model.5", 16, 16)
    conv("model.7", 3, 16)
    return tensors


@pytest.mark.skipif(not HAS_SPANDREL, reason="spandrel is not installed")
def test_a_file_of_esrgan_enlarges_twice(ctx, folder):
    save_file(esrgan(), folder / "2x.safetensors")
    model = UpscaleModelLoader(model_name="2x.safetensors").run(ctx)
    out = ImageUpscaleWithModel(upscale_model=model, image=Image(noise(1, 10, 14, 3))).run(ctx)
    assert out.pixels.shape == (1, 20, 28, 3)
    assert out.pixels.std() > 0


@pytest.mark.skipif(not HAS_SPANDREL, reason="spandrel is not installed")
def test_a_file_of_something_else_is_named(ctx, folder):
    save_file({"unknown": torch.zeros(2, 2)}, folder / "x.safetensors")
    with pytest.raises(NodeError, match=r"model_name: x\.safetensors: this is no upscale model that spandrel .* knows"):
        UpscaleModelLoader(model_name="x.safetensors").run(ctx)
