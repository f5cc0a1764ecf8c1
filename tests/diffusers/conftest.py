"""The small random checkpoint of the other tests, as we open it and as the parts of a pipeline, and a walk on a pipeline's levels."""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from diffusion.guidance import Guidance
from diffusion.loading import open_checkpoint
from diffusion.memory import TorchDevice
from diffusion.samplers import integrate, make_stepper
from diffusion.schedule import Schedule
from diffusion.session import open_session
from diffusion.text import encode
from diffusion.values import VAE, Clip, Conditioning, Model
from graph_engine.context import Context
from graph_engine.files import Folders

RED, BLUE = "a red cat", "a blue dog"
Walk = Callable[..., Tensor]


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
def parts(tiny_folder: Path) -> dict[str, Any]:
    """What every pipeline of the Stable Diffusion kind is made of; the schedule is DDIM's, its last level the clean one."""
    from diffusers import AutoencoderKL, DDIMScheduler
    from transformers import CLIPTextModel, CLIPTokenizer

    return {
        "vae": AutoencoderKL.from_pretrained(tiny_folder / "vae"),
        "text_encoder": CLIPTextModel.from_pretrained(tiny_folder / "text_encoder"),
        "tokenizer": CLIPTokenizer.from_pretrained(tiny_folder / "tokenizer"),
        "scheduler": DDIMScheduler.from_pretrained(tiny_folder / "scheduler", steps_offset=1),
        "safety_checker": None,
        "feature_extractor": None,
    }


@pytest.fixture
def pipeline(parts: dict[str, Any], tiny_folder: Path) -> Callable[..., Any]:
    """A pipeline of a class, silent, with a U-Net of its own: some change its processors. Their notes of age are not ours to heed."""
    from diffusers import UNet2DConditionModel

    def make(kind: type, **changed: Any) -> Any:
        unet = changed.pop("unet", None) or UNet2DConditionModel.from_pretrained(tiny_folder / "unet")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning)
            pipe = kind(**parts | {"unet": unet} | changed)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return make


@pytest.fixture(scope="session")
def device() -> TorchDevice:
    return TorchDevice("cpu")


@pytest.fixture
def ctx(device: TorchDevice, tmp_path: Path) -> Context:
    return Context.silent(device, Folders(tmp_path, {}))


@pytest.fixture(scope="session")
def checkpoint(tiny_folder: Path) -> tuple[Model, Clip, VAE]:
    return open_checkpoint(tiny_folder)


@pytest.fixture(scope="session")
def model(checkpoint: tuple[Model, Clip, VAE]) -> Model:
    return checkpoint[0]


@pytest.fixture(scope="session")
def clip(checkpoint: tuple[Model, Clip, VAE]) -> Clip:
    return checkpoint[1]


@pytest.fixture(scope="session")
def vae(checkpoint: tuple[Model, Clip, VAE]) -> VAE:
    return checkpoint[2]


@pytest.fixture(scope="session")
def red(clip: Clip, device: TorchDevice) -> Conditioning:
    return encode(clip, RED, device)


@pytest.fixture(scope="session")
def blue(clip: Clip, device: TorchDevice) -> Conditioning:
    return encode(clip, BLUE, device)


@pytest.fixture(scope="session")
def empty(clip: Clip, device: TorchDevice) -> Conditioning:
    return encode(clip, "", device)


@pytest.fixture(scope="session")
def x_t() -> Tensor:
    """The noise that runs start from, in their form, √ᾱ·x0 + √(1−ᾱ)·ε."""
    return torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def walk(device: TorchDevice) -> Walk:
    """Our DDIM from a state in their form down a scheduler's timesteps to the clean end."""

    def down(model: Model, guidance: Guidance, x: Tensor, timesteps: Tensor) -> Tensor:
        schedule = Schedule.at(model.process.table(), timesteps.tolist())
        x = x * math.sqrt(1 + schedule.sigmas[0] ** 2)
        with open_session(model, guidance, device, sigmas=schedule.sigmas, shape=x.shape) as net:
            return integrate(make_stepper("ddim"), net, x, schedule)

    return down
