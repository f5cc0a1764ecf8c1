"""Adapters for small random U-Nets: one with the levels and layers of SD 1, one of SDXL."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file

from diffusion.loading import open_checkpoint
from diffusion.text import encode

TOOLS = Path(__file__).parents[2] / "tools"
READS = 24  # width of what small projectors read


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def make_ip_adapter() -> ModuleType:
    return tool("make_ip_adapter")


@pytest.fixture(scope="session")
def make_lora() -> ModuleType:
    return tool("make_lora")


@pytest.fixture(scope="session")
def checkpoints(folder, tmp_path_factory) -> dict[str, Path]:
    """sd1: four levels, two layers a block (16 transformers); sdxl: a single file with transformers of two layers."""
    from diffusers import UNet2DConditionModel

    place = tmp_path_factory.mktemp("models")
    sd1 = place / "sd1"
    shutil.copytree(folder, sd1)
    shutil.rmtree(sd1 / "unet")
    config = json.loads((folder / "unet" / "config.json").read_text())
    config |= {"block_out_channels": (16, 16, 32, 32), "layers_per_block": 2, "norm_num_groups": 8, "attention_head_dim": 4}
    config["down_block_types"] = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    config["up_block_types"] = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        unet = UNet2DConditionModel.from_config(config)
        for parameter in unet.parameters():  # random initialisation leaves attention next to uniform; sharpen it
            if parameter.ndim == 2:
                parameter.data *= 2
    unet.save_pretrained(sd1 / "unet")
    save_file(tool("make_checkpoint").make("sdxl", dtype=torch.float32), place / "sdxl.safetensors")
    return {"sd1": sd1, "sdxl": place / "sdxl.safetensors"}


@pytest.fixture(scope="session")
def opened(checkpoints):
    return {name: open_checkpoint(path) for name, path in checkpoints.items()}


@pytest.fixture(scope="session")
def prompts(opened, device):
    """Positive and negative conditioning of each model."""
    return {name: [encode(clip, text, device) for text in ("a red cat", "a blue dog")] for name, (_, clip, _) in opened.items()}


@pytest.fixture(scope="session")
def unet_shapes(opened, device):
    """Shapes of each U-Net's weights under diffusers' names."""
    shapes = {}
    for name, (model, _, _) in opened.items():
        with device.weights(model.weights) as unet:
            shapes[name] = {key: tuple(weight.shape) for key, weight in unet.state_dict().items()}
    return shapes


@pytest.fixture(scope="session")
def adapter_tensors(make_ip_adapter, unet_shapes):
    """Weights of an adapter of a kind for one of the models."""

    def make(model: str, kind: str, seed: int = 0):
        widths, text = make_ip_adapter.widths_of(unet_shapes[model])
        return make_ip_adapter.make(kind, widths, text, READS, hidden=48, seed=seed)

    return make


@pytest.fixture(scope="session")
def adapter_file(adapter_tensors, tmp_path_factory):
    """The same in a file."""
    place, made = tmp_path_factory.mktemp("ipadapter"), {}

    def get(model: str, kind: str, seed: int = 0) -> Path:
        key = (model, kind, seed)
        if key not in made:
            made[key] = place / f"{model}_{kind}_{seed}.safetensors"
            save_file(adapter_tensors(*key), made[key])
        return made[key]

    return get
