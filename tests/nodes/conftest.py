"""A silent context on the CPU with folders of its own, and the small random checkpoint of the diffusion tests."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from diffusion.loading import open_checkpoint
from diffusion.memory import TorchDevice
from diffusion.text import encode
from diffusion.values import VAE, Clip, Conditioning, Model
from graph_engine.context import Context
from graph_engine.files import Folders


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = Path(__file__).parents[1] / "diffusion" / "conftest.py"
    spec = importlib.util.spec_from_file_location("tiny_checkpoint", source)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    module.write_checkpoint(folder)
    return folder


@pytest.fixture(scope="session")
def device() -> TorchDevice:
    return TorchDevice("cpu")


@pytest.fixture
def folders(tmp_path: Path, tiny_folder: Path) -> Folders:
    (tmp_path / "input").mkdir()
    return Folders(tmp_path, {"checkpoints": [tiny_folder.parent]})


@pytest.fixture
def ctx(device: TorchDevice, folders: Folders) -> Context:
    return Context.silent(device, folders)


@pytest.fixture(scope="session")
def checkpoint(tiny_folder: Path) -> tuple[Model, Clip, VAE]:
    return open_checkpoint(tiny_folder)


@pytest.fixture(scope="session")
def model(checkpoint) -> Model:
    return checkpoint[0]


@pytest.fixture(scope="session")
def clip(checkpoint) -> Clip:
    return checkpoint[1]


@pytest.fixture(scope="session")
def vae(checkpoint) -> VAE:
    return checkpoint[2]


@pytest.fixture(scope="session")
def red(clip, device) -> Conditioning:
    return encode(clip, "a red cat", device)


@pytest.fixture(scope="session")
def blue(clip, device) -> Conditioning:
    return encode(clip, "a blue dog", device)
