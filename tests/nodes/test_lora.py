"""LoRA nodes on the small checkpoint: the acceptance of the loaders, as pictures' latents, and files that go round."""

import importlib.util
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusion.guidance import CFG
from diffusion.session import open_session
from diffusion.text import encode
from graph_engine.context import Context
from graph_engine.errors import NodeError
from graph_engine.files import Folders
from nodes.lora import LoraLoader, LoraLoaderModelOnly, LoraLoadFile, LoraMerge, LoraModelLoader, LoraSave, SaveLoRA
from nodes.merge import CLIPMergeSubtract, ModelMergeSubtract

X = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("make_lora", Path(__file__).parents[1] / "tools" / "make_lora.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def base(tool, tiny_folder, tmp_path_factory):
    base = tmp_path_factory.mktemp("base")
    loras = base / "models" / "loras"
    loras.mkdir(parents=True)
    shapes = tool.shapes_in(tiny_folder)
    factors, other = tool.make(shapes), tool.make(shapes, rank=2, seed=7)
    save_file(tool.contiguous(tool.kohya(factors)), loras / "kohya.safetensors")
    save_file(tool.contiguous(tool.diffusers(factors)), loras / "diffusers.safetensors")
    tool.write_peft(factors, loras / "peft")
    save_file(tool.contiguous(tool.kohya(other)), loras / "other.safetensors")
    save_file(
        {"lora_unet_far.lora_up.weight": torch.ones(2, 1), "lora_unet_far.lora_down.weight": torch.ones(1, 2)}, loras / "far.safetensors"
    )
    some = tool.kohya(factors) | load_file(loras / "far.safetensors")
    save_file(tool.contiguous(some), loras / "some.safetensors")
    return base


@pytest.fixture
def here(device, base) -> Context:
    return Context.silent(device, Folders(base))


def seen(model, clip, device):
    """What a model makes of a prompt at one noise level."""
    prompt = encode(clip, "a red cat", device)
    with open_session(model, CFG(prompt, prompt, 1.0), device) as net, torch.no_grad():
        return net.denoise(X * 5, 5.0)


def test_kohya_diffusers_and_peft_make_the_same_picture(here, model, clip, device):
    found = [
        seen(*LoraLoader(model=model, clip=clip, lora_name=name, strength_model=0.9, strength_clip=0.7).run(here), device)
        for name in ("kohya.safetensors", "diffusers.safetensors", "peft")
    ]
    plain = seen(model, clip, device)
    assert (found[0] - plain).abs().max() > 0.01 * plain.abs().max()
    for other in found[1:]:
        assert (other - found[0]).abs().max() <= 1e-5 * found[0].abs().max()


def test_strength_zero_is_bit_equal_to_none_and_so_is_the_model_afterwards(here, model, clip, device):
    plain = seen(model, clip, device)
    none = LoraLoader(model=model, clip=clip, lora_name="kohya.safetensors", strength_model=0.0, strength_clip=0.0).run(here)
    assert none == (model, clip)
    only_text = LoraLoader(model=model, clip=clip, lora_name="kohya.safetensors", strength_model=0.0, strength_clip=1.0).run(here)
    assert only_text.model is model
    assert only_text.clip is not clip
    assert LoraLoaderModelOnly(model=model, lora_name="kohya.safetensors", strength_model=0.0).run(here) is model
    seen(LoraLoaderModelOnly(model=model, lora_name="kohya.safetensors", strength_model=-2.0).run(here), clip, device)
    assert torch.equal(seen(model, clip, device), plain)


def test_two_in_either_order_are_bit_equal(here, model, clip, device):
    results = []
    for names in (("kohya.safetensors", "other.safetensors"), ("other.safetensors", "kohya.safetensors")):
        m, c = model, clip
        for name in names:
            strength = {"k": 0.8, "o": -1.7}[name[0]]
            m, c = LoraLoader(model=m, clip=c, lora_name=name, strength_model=strength, strength_clip=strength / 2).run(here)
        results.append(seen(m, c, device))
    assert torch.equal(*results)


def test_errors_and_notes(here, model, clip):
    with pytest.raises(NodeError, match=r"lora_name: LoRA far\.safetensors: none of its 1 modules"):
        LoraLoader(model=model, clip=clip, lora_name="far.safetensors").run(here)
    with pytest.raises(NodeError, match=r"lora_name: LoRA far\.safetensors: none of its 1 modules"):
        LoraLoaderModelOnly(model=model, lora_name="far.safetensors").run(here)
    with pytest.warns(UserWarning, match=r"some\.safetensors: \d+ of \d+ modules matched; not in this model: lora_unet_far"):
        LoraLoader(model=model, clip=clip, lora_name="some.safetensors").run(here)
    assert "modules matched" in here.ui["text"][0]


@pytest.mark.parametrize("mode", ["sum", "svd"])
def test_a_merge_is_the_two_in_a_row(here, model, clip, device, mode):
    a, b = (LoraLoadFile(lora_name=f"{name}.safetensors").run(here) for name in ("kohya", "other"))
    merged = LoraMerge(lora_a=a, lora_b=b, weight_a=0.5, weight_b=-1.0, mode=mode, rank=6).run(here)
    row = LoraModelLoader(model=LoraModelLoader(model=model, lora=a, strength_model=0.5).run(here), lora=b, strength_model=-1.0).run(here)
    wanted = seen(row, clip, device)
    found = seen(LoraModelLoader(model=model, lora=merged).run(here), clip, device)
    assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max()


def test_a_saved_lora_loads_with_the_same_bits(here, base, model, clip, device):
    lora = LoraLoadFile(lora_name="kohya.safetensors").run(here)
    SaveLoRA(lora=lora, prefix="loras/mine", steps=3).run(here)
    path = Path(here.artifacts[-1].path)
    assert path.name == "mine_3_steps_00001_.safetensors"
    path.rename(base / "models" / "loras" / "mine.safetensors")
    a, b = (LoraLoaderModelOnly(model=model, lora_name=f"{name}.safetensors").run(here) for name in ("kohya", "mine"))
    assert torch.equal(seen(a, clip, device), seen(b, clip, device))


def test_the_difference_of_two_models_saves_as_a_lora(here, base, model, clip, device):
    tuned, text = LoraLoader(model=model, clip=clip, lora_name="kohya.safetensors").run(here)
    difference = ModelMergeSubtract(model1=tuned, model2=model).run(here)
    text_difference = CLIPMergeSubtract(clip1=text, clip2=clip).run(here)
    LoraSave(rank=4, model_diff=difference, text_encoder_diff=text_difference).run(here)
    Path(here.artifacts[-1].path).rename(base / "models" / "loras" / "extracted.safetensors")
    again = LoraLoader(model=model, clip=clip, lora_name="extracted.safetensors").run(here)
    wanted = seen(tuned, text, device)
    assert (seen(*again, device) - wanted).abs().max() <= 1e-4 * wanted.abs().max()
    with pytest.raises(NodeError, match="at least one is wanted"):
        LoraSave().run(here)
    with pytest.raises(NodeError, match="all differences are zero"):
        LoraSave(model_diff=ModelMergeSubtract(model1=model, model2=model).run(here)).run(here)
