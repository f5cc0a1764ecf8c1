"""Pickled files of every kind: refused in one sentence that says how to convert them, and read as weights only once that is allowed."""

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusion.convert import convert
from diffusion.files import ALLOW
from graph_engine.context import Context
from graph_engine.errors import NodeError
from graph_engine.files import Folders
from nodes.control import ControlNetLoader, DiffControlNetLoader
from nodes.load import CheckpointLoaderSimple, CLIPLoader, UNETLoader, VAELoader
from nodes.lora import LoraLoader, LoraLoaderModelOnly
from nodes.text import CLIPTextEncode, CLIPTextEncodeBreak
from nodes.upscale_model import UpscaleModelLoader

TOOLS = Path(__file__).parents[1] / "tools"
KEY = "lora_unet_mid_block_attentions_0_proj_in"


def tool(name):
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def home(tiny_folder, tmp_path_factory):
    """One pickled file of each kind."""
    home = tmp_path_factory.mktemp("pickled")
    make = tool("make_checkpoint").make
    lora = tool("make_lora")
    files = {
        "checkpoints/whole.ckpt": {"state_dict": make("sd15")},
        "diffusion_models/unet.pt": {name: tensor for name, tensor in make("sd15").items() if name.startswith("model.")},
        "text_encoders/clip.bin": make("clip-l"),
        "vae/vae.pt": {"state_dict": make("vae")},
        "loras/style.pt": lora.kohya(lora.make(lora.shapes_in(tiny_folder))),
        "embeddings/word.pt": {"string_to_token": {"*": 265}, "string_to_param": {"*": torch.ones(2, 64)}},
        "controlnet/net.pth": {"control_model.zero_convs.0.0.weight": torch.ones(1)},
        "controlnet/adapter.pth": {"body.0.in_conv.weight": torch.ones(1)},
        "upscale_models/4x.pth": {"params_ema": {"model.0.weight": torch.ones(1)}},
    }
    for name, content in files.items():
        (home / "models" / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, home / "models" / name)
    return home


@pytest.fixture
def here(home, device):
    return Context.silent(device, Folders(home))


LOADERS = {
    "whole.ckpt": lambda here, model, clip: CheckpointLoaderSimple(ckpt_name="whole.ckpt").run(here),
    "unet.pt": lambda here, model, clip: UNETLoader(unet_name="unet.pt").run(here),
    "clip.bin": lambda here, model, clip: CLIPLoader(clip_name="clip.bin").run(here),
    "vae.pt": lambda here, model, clip: VAELoader(vae_name="vae.pt").run(here),
    "style.pt": lambda here, model, clip: LoraLoader(model=model, clip=clip, lora_name="style.pt").run(here),
    "word.pt": lambda here, model, clip: CLIPTextEncode(clip=clip, text="a embedding:word cat").run(here),
    "net.pth": lambda here, model, clip: ControlNetLoader(control_net_name="net.pth").run(here),
    "adapter.pth": lambda here, model, clip: DiffControlNetLoader(model=model, control_net_name="adapter.pth").run(here),
    "4x.pth": lambda here, model, clip: UpscaleModelLoader(model_name="4x.pth").run(here),
}


@pytest.mark.parametrize("name", LOADERS)
def test_refused_with_the_way_to_convert_it(name, here, model, clip, monkeypatch):
    monkeypatch.delenv(ALLOW, raising=False)
    with pytest.raises(NodeError, match=r"--allow-pickle") as problem:
        LOADERS[name](here, model, clip)
    assert f"python -m diffusion.convert {name}" in str(problem.value)
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize("name", [name for name in LOADERS if name not in ("word.pt", "4x.pth")])
def test_read_where_allowed(name, here, model, clip, monkeypatch):
    monkeypatch.setenv(ALLOW, "1")
    assert LOADERS[name](here, model, clip) is not None


def test_a_learned_word_where_allowed(home, here, monkeypatch):
    monkeypatch.setenv(ALLOW, "1")
    clip = CheckpointLoaderSimple(ckpt_name="whole.ckpt").run(here).clip
    for node in (CLIPTextEncode, CLIPTextEncodeBreak):
        pickled = node(clip=clip, text="a embedding:word cat").run(here).entries[0].embeds
        save_file({"emb_params": torch.ones(2, 64)}, home / "models/embeddings/safe.safetensors")
        assert torch.equal(pickled, node(clip=clip, text="a embedding:safe cat").run(here).entries[0].embeds)


@pytest.mark.skipif(importlib.util.find_spec("spandrel") is None, reason="spandrel is not installed")
def test_an_upscale_model_where_allowed(here, monkeypatch):
    monkeypatch.setenv(ALLOW, "1")
    with pytest.raises(NodeError, match=r"4x\.pth: this is no upscale model"):  # it was read
        LOADERS["4x.pth"](here, None, None)


def test_a_pickle_that_would_run_code_is_never_run(home, here, model, tmp_path, monkeypatch):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"state_dict": Bomb()}, home / "models/loras/bomb.pt")
    monkeypatch.setenv(ALLOW, "1")
    with pytest.raises(NodeError, match=r"lora_name: LoRA bomb\.pt: this pickled file cannot be read as weights"):
        LoraLoaderModelOnly(model=model, lora_name="bomb.pt").run(here)
    assert not (tmp_path / "ran").exists()


def test_what_is_converted_is_what_was_there(home, tmp_path):
    for name in ("vae/vae.pt", "loras/style.pt", "controlnet/net.pth", "upscale_models/4x.pth"):
        source = Path(shutil.copy(home / "models" / name, tmp_path))
        pickled = torch.load(source, weights_only=True)
        tensors = pickled.get("state_dict", pickled.get("params_ema", pickled))
        assert {name: tuple(t.shape) for name, t in load_file(convert(source)).items()} == {n: tuple(t.shape) for n, t in tensors.items()}
