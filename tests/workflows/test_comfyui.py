"""The graphs as ComfyUI saves them run, in both formats, on small random checkpoints under the names that they ask for."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from safetensors.torch import save_file

from diffusion.memory import TorchDevice
from graph_engine.editor.definitions import definitions
from graph_engine.editor.layout import to_editor
from graph_engine.engine import Engine
from graph_engine.entry import Link
from graph_engine.files import Folders
from graph_engine.registry import Registry
from graph_engine.validate import validate
from graph_engine.workflow import Workflow

ROOT = Path(__file__).parents[2]
HERE = ROOT / "workflows" / "comfyui"
NAMES = (
    "text_to_image", "image_to_image", "inpaint", "hires_fix", "lora_stack", "controlnet", "sdxl_base_refiner", "area_composition",
    "custom_sampler_chain", "upscale",
)  # fmt: skip
SIZES = {  # what comes out, (width, height), at an eighth of the size
    "hires_fix": (128, 128), "lora_stack": (64, 96), "sdxl_base_refiner": (128, 128), "area_composition": (88, 160), "upscale": (128, 128),
}  # fmt: skip
SMALLER = {"width": 8, "height": 8, "x": 8, "y": 8, "steps": 4, "step": 4, "start_at_step": 4, "end_at_step": 4}
HAS_SPANDREL = importlib.util.find_spec("spandrel") is not None


def module(path: Path) -> ModuleType:
    name = f"{path.parent.name}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    found = importlib.util.module_from_spec(spec)
    sys.modules[name] = found  # dataclasses look their module up
    spec.loader.exec_module(found)
    return found


@pytest.fixture(scope="session")
def registry() -> Registry:
    return Registry.discover()


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """A folder for each kind of file, with the names that the graphs ask for."""
    from diffusers import ControlNetModel, UNet2DConditionModel

    root = tmp_path_factory.mktemp("models")
    folders = {kind: root / kind for kind in ("checkpoints", "loras", "controlnet", "upscale_models")}
    for folder in folders.values():
        folder.mkdir()
    sd1 = folders["checkpoints"] / "v1-5-pruned-emaonly-fp16.safetensors"  # here a diffusers folder
    module(ROOT / "tests" / "diffusion" / "conftest.py").write_checkpoint(sd1)
    lora = module(ROOT / "tests" / "tools" / "make_lora.py")
    for seed, name in enumerate(("epiNoiseoffset_v2", "theovercomer8sContrastFix_sd15")):
        factors = lora.make(lora.shapes_in(sd1), seed=seed)
        save_file(lora.contiguous(lora.kohya(factors)), folders["loras"] / f"{name}.safetensors")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = ControlNetModel.from_unet(UNet2DConditionModel.from_pretrained(sd1 / "unet"))
        for each in (*net.controlnet_down_blocks, net.controlnet_mid_block, net.controlnet_cond_embedding.conv_out):
            torch.nn.init.normal_(each.weight, std=0.3)
    net.save_pretrained(folders["controlnet"] / "control_v11p_sd15_canny_fp16.safetensors")
    checkpoint = module(ROOT / "tests" / "tools" / "make_checkpoint.py")
    for name, kind in (("sd_xl_base_1.0", "sdxl"), ("sd_xl_refiner_1.0", "sdxl-refiner")):
        save_file(checkpoint.make(kind), folders["checkpoints"] / f"{name}.safetensors")
    esrgan = module(ROOT / "tests" / "nodes" / "test_upscale_model.py").esrgan
    save_file(esrgan(), folders["upscale_models"] / "RealESRGAN_x2.safetensors")
    return {kind: [folder] for kind, folder in folders.items()}


@pytest.fixture
def folders(tmp_path: Path, models: dict[str, list[Path]]) -> Folders:
    (tmp_path / "input").mkdir()
    levels = np.random.default_rng(0).integers(0, 256, (64, 64, 4), dtype=np.uint8)
    levels[..., 3] = 255
    levels[20:40, 20:40, 3] = 0
    Picture.fromarray(levels).save(tmp_path / "input" / "example.png")
    return Folders(tmp_path, models)


@pytest.fixture(scope="session")
def device() -> TorchDevice:
    return TorchDevice("cpu")


def load(name: str, registry: Registry, folders: Folders) -> Workflow:
    return Workflow.load(HERE / f"{name}.json", registry.specs, folders)


def small(workflow: Workflow) -> Workflow:
    """Every length an eighth, every number of steps a quarter."""
    for id, entry in workflow.nodes.items():
        for name, value in entry.inputs.items():
            if name in SMALLER and not isinstance(value, Link) and not entry.class_type.startswith("CLIP"):
                workflow = workflow.set(f"{id}.{name}", value // SMALLER[name])
    return workflow


def test_the_ten_are_there_in_both_formats():
    assert {file.name for file in HERE.glob("*.json")} == {f"{name}{kind}" for name in NAMES for kind in (".json", ".editor.json")}


@pytest.mark.parametrize("name", NAMES)
def test_both_formats_are_the_same_sound_graph(name, registry, folders):
    api, editor = load(name, registry, folders), load(f"{name}.editor", registry, folders)
    assert validate(api, registry.specs, folders, registry=registry) == []
    assert {id: (n.class_type, dict(n.inputs)) for id, n in editor.nodes.items()} == {
        id: (n.class_type, dict(n.inputs)) for id, n in api.nodes.items()
    }
    document = json.loads((HERE / f"{name}.json").read_text())
    saved = json.loads((HERE / f"{name}.editor.json").read_text())
    assert {node["type"] for node in saved["nodes"]} == {node["class_type"] for node in document.values()}
    again = to_editor(document, definitions(registry.specs, folders))
    assert {node["id"]: node.get("widgets_values") for node in again["nodes"]} == {
        node["id"]: node.get("widgets_values") for node in saved["nodes"]
    }


@pytest.mark.parametrize("name", NAMES)
def test_it_runs(name, registry, folders, device):
    pictures = []
    for kind in ("", ".editor"):
        with Engine(registry, device=device, folders=folders, debug=True) as engine:
            result = engine.run(small(load(name + kind, registry, folders)))
        if name == "upscale" and not HAS_SPANDREL:
            with pytest.raises(Exception, match=r"upscale models need the package spandrel; install latentgraph\[upscale\]"):
                result.raise_for_error()
            return
        result.raise_for_error()
        (saved,) = (artifact for artifact in result.artifacts if artifact.type == "output")
        with Picture.open(saved.path) as picture:
            assert picture.size == SIZES.get(name, (64, 64))
            pictures.append(np.asarray(picture))
    assert np.array_equal(*pictures)
    assert pictures[0].std() > 1
