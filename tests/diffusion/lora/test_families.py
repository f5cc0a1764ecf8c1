"""One LoRA in every layout on the other families: SD 2.x, and SDXL with both of its text encoders."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from diffusion.loading import open_checkpoint
from diffusion.lora.apply import apply_lora
from diffusion.lora.file import parse_lora, read_lora
from diffusion.weights import opened

TOOL = Path(__file__).parents[2] / "tools" / "make_checkpoint.py"
STRENGTHS = {"unet": 0.7, "text_encoder": -0.4, "text_encoder_2": -0.4}


@pytest.fixture(scope="module")
def make():
    spec = importlib.util.spec_from_file_location("make_checkpoint", TOOL)
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_checkpoint"] = module
    spec.loader.exec_module(module)
    return module.make


@pytest.fixture(scope="module", params=["sd21", "sdxl"])
def family(request, make, tmp_path_factory):
    path = tmp_path_factory.mktemp("lora") / f"{request.param}.safetensors"
    save_file(make(request.param, dtype=torch.float32), path)
    return open_checkpoint(path)[:2]


def weights(model, clip, device):
    """All weights of a model and its text encoders as the tool calls them."""
    found = {}
    with opened(model.weights, model.patches, device.weights) as unet:
        found |= {f"unet:{name}": p.detach().clone() for name, p in unet.named_parameters()}
    with opened(clip.weights, clip.patches, device.weights) as text:
        for tower, part in zip(text.towers, ("text_encoder", "text_encoder_2"), strict=False):
            found |= {f"{part}:{name}": p.detach().clone() for name, p in tower.model.named_parameters()}
    return found


def test_every_layout_gives_the_weights_of_the_formula(family, make_lora, device, tmp_path):
    model, clip = family
    plain = weights(model, clip, device)
    shapes = {name: tuple(tensor.shape) for name, tensor in plain.items()}
    factors = make_lora.make(shapes)
    rename = make_lora.ldm_names([name.partition(":")[2].rpartition(".")[0] for name in shapes if name.startswith("unet:")])
    wanted = {name: tensor.double() for name, tensor in plain.items()}
    for name, (up, down, alpha) in factors.items():
        delta = (up.double().flatten(1) @ down.double().flatten(1)).reshape(shapes[f"{name}.weight"])
        wanted[f"{name}.weight"] += STRENGTHS[name.partition(":")[0]] * (alpha / len(down)) * delta
    assert {name.partition(":")[0] for name in factors} == {name.partition(":")[0] for name in shapes}
    made = {
        "kohya": make_lora.kohya(factors),
        "kohya, original names": make_lora.kohya(factors, rename),
        "diffusers": make_lora.diffusers(factors),
        "diffusers 0.17": make_lora.diffusers_mid(factors),
        "comfy": make_lora.comfy(factors, rename),
    }
    for layout, tensors in made.items():
        patched, text, fit = apply_lora(parse_lora(tensors, layout), model, clip, 0.7, -0.4, device)
        assert (fit.matched, fit.note()) == (len(factors), None)
        found = weights(patched, text, device)
        assert max(float((found[name] - wanted[name]).abs().max()) for name in wanted) < 1e-5
    denoiser = {name: factor for name, factor in factors.items() if name.startswith("unet:")}
    make_lora.write_peft(denoiser, tmp_path / "peft")
    patched, _, _ = apply_lora(read_lora(tmp_path / "peft"), model, None, 0.7, 0.0, device)
    found = weights(patched, clip, device)
    assert max(float((found[name] - wanted[name]).abs().max()) for name in wanted if name.startswith("unet:")) < 1e-5
    after = weights(model, clip, device)
    assert all(torch.equal(after[name], plain[name]) for name in plain)
