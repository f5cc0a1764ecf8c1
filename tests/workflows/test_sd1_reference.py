"""The latents that ComfyUI 0.8.0 makes from a random-weight Stable Diffusion 1 checkpoint, from the same graphs; and what lies on the way.

tests/sd1_reference holds the graphs, the latents and the script that rebuilds the weights bit for bit.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusion.files import ALLOW
from diffusion.guidance import Conditional
from diffusion.loading import open_checkpoint
from diffusion.memory import TorchDevice
from diffusion.noise import prepare_noise
from diffusion.process import Process
from diffusion.samplers import SAMPLERS
from diffusion.session import open_session
from diffusion.spacing import SCHEDULERS, sigmas_for
from diffusion.text import encode, open_text, tokenize
from diffusion.vae import decode
from diffusion.vae import encode as encode_picture
from diffusion.values import Image, Latent
from graph_engine.engine import Engine
from graph_engine.files import Folders
from graph_engine.registry import Registry
from graph_engine.workflow import Workflow

HERE = Path(__file__).parents[1] / "sd1_reference"
CASES = sorted(file.stem for file in HERE.glob("*.latent"))
PROMPT = "a photograph of a red cat on a table, highly detailed"  # of the network's outputs
TOLERANCE = 1e-4  # of the largest value
DIGESTS = {
    "sd15_small": "a56ba8df6579db1529d060b0e5887853202a7e87c5bb51038515248f9ce31cf0",
    "lora_small": "942c09d8f39b7237043b499129caa903ad1464199bce2ae4b3c328fa01d7239f",
    "control_small": "780d7f603cf50b15fefa8d2f39836405a7104785740096da0f9f5b32aa8584c7",
}

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("sd1_reference")]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The folders that the graphs expect, with the checkpoint and the ControlNet as pickles of views, which are small."""
    spec = importlib.util.spec_from_file_location("sd1_reference", HERE / "make_checkpoint.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    home = tmp_path_factory.mktemp("reference")
    for folder in ("models/checkpoints", "models/loras", "models/controlnet", "input"):
        (home / folder).mkdir(parents=True)
    made = {name: script.build(name) for name in DIGESTS}
    assert {name: script.digest(tensors) for name, tensors in made.items()} == DIGESTS
    torch.save({"state_dict": made["sd15_small"]}, home / "models/checkpoints/sd15_small.ckpt")
    torch.save(made["control_small"], home / "models/controlnet/control_small.ckpt")
    contiguous = {name: tensor.contiguous().clone() for name, tensor in made["lora_small"].items()}
    save_file(contiguous, home / "models/loras/lora_small.safetensors")
    for picture in HERE.glob("*.png"):
        shutil.copy(picture, home / "input")
    return home


@pytest.fixture(scope="module")
def device():
    return TorchDevice("cpu")


@pytest.fixture(scope="module")
def engine(home, device):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ALLOW, "1")
        with Engine(Registry.discover(), device=device, folders=Folders(home)) as engine:
            yield engine


@pytest.fixture(scope="module")
def opened(home, engine):
    return open_checkpoint(home / "models/checkpoints/sd15_small.ckpt")


def apart(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


def latent_of(engine: Engine, home: Path, document: dict, prefix: str) -> torch.Tensor:
    result = engine.run(Workflow.from_json(document, engine.registry.specs, Folders(home)))
    result.raise_for_error()
    (path,) = (Path(a.path) for a in result.artifacts if Path(a.path).match(f"{prefix}_0*.latent"))
    return load_file(path)["latent_tensor"]


def test_there_are_eight():
    assert len(CASES) == 8


@pytest.mark.parametrize("name", CASES)
def test_the_graph_makes_the_same_latent(name, engine, home):
    document = json.loads((HERE / f"{name}.json").read_text())
    assert apart(latent_of(engine, home, document, f"small_{name}"), load_file(HERE / f"{name}.latent")["latent_tensor"]) < TOLERANCE


def test_levels_of_all_schedulers():
    """To the last bit: Brownian noise and levels half-way between two timesteps tell it."""
    known = json.loads((HERE / "sigmas.json").read_text())
    table = Process().table()
    assert known["samplers"] == list(SAMPLERS)
    assert known["schedulers"] == list(SCHEDULERS)
    for key, wanted in known["sigmas"].items():
        scheduler, steps, denoise, *sampler = key.split("|")
        found = sigmas_for(table, scheduler, int(steps), float(denoise), *sampler)
        levels = torch.tensor(wanted)
        known_ones = levels.isfinite()  # ComfyUI divides by 0 for a single step of kl_optimal
        assert found.shape == levels.shape, key
        assert torch.equal(found[known_ones], levels[known_ones]), key


def test_tokens_of_all_prompts(opened, device):
    with open_text(opened[1], device) as encoder:
        for name, known in json.loads((HERE / "tokens.json").read_text()).items():
            tokens = tokenize(encoder, known["text"])
            wanted = [pair for chunk in known["tokens"]["l"] for pair in chunk]
            assert list(tokens.ids) == [id for id, _ in wanted], name
            assert list(tokens.weights) == pytest.approx([weight for _, weight in wanted]), name


def test_noise_network_and_vae(opened, device):
    model, clip, vae = opened
    known = load_file(HERE / "noise_unet_vae.safetensors")
    assert torch.equal(known["model_sigmas"], model.process.table().sigmas)
    for name, wanted in known.items():
        if name.startswith("noise."):
            assert torch.equal(prepare_noise(wanted.shape, int(name.split(".")[1])), wanted), name
    assert torch.equal(prepare_noise((2, 4, 8, 8), 42, (3, 1)), known["noise_batchind.42"])
    x = known["noise.42.1x4x8x8"]
    with open_session(model, Conditional(encode(clip, PROMPT, device)), device) as net, torch.no_grad():
        for sigma in (0.0291675, 0.5, 3.0, 14.614642):
            assert apart(net.denoise(x * sigma, sigma), known[f"unet.denoised.sigma{sigma}"]) < TOLERANCE, sigma
    assert apart(encode_picture(vae, Image(known["vae.encode_in"]), device).x, known["vae.encode"]) < TOLERANCE
    assert apart(decode(vae, Latent(x), device).pixels, known["vae.decode"]) < TOLERANCE
