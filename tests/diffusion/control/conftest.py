"""A small random ControlNet for the small random checkpoint, and a folder that holds it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from diffusion.control.file import open_control
from diffusion.control.value import ControlNet


@pytest.fixture(scope="session")
def controlnet_folder(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffusers import ControlNetModel, UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = ControlNetModel.from_unet(UNet2DConditionModel.from_pretrained(folder / "unet"))
        for module in (*net.controlnet_down_blocks, net.controlnet_mid_block, net.controlnet_cond_embedding.conv_out):
            torch.nn.init.normal_(module.weight, std=0.3)
    place = tmp_path_factory.mktemp("controlnet")
    net.save_pretrained(place)
    return place


@pytest.fixture(scope="session")
def controlnet(controlnet_folder: Path) -> ControlNet:
    return open_control(controlnet_folder)


@pytest.fixture(scope="session")
def picture() -> torch.Tensor:
    return torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(8))
