"""ControlNet, T2I-Adapter and a LoRA in one graph on the embedded model: each of them still acts beside the others."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from diffusion.memory import TorchDevice
from graph_engine.engine import Engine
from graph_engine.files import Folders
from graph_engine.registry import Registry
from graph_engine.workflow import Workflow
from toybox import WEIGHTS
from toybox.palette import COLORS
from toybox.segment import iou, segment
from toybox.views import coarse_colors

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
OFF = {
    "edges": ["Follow the edges.strength"],
    "colors": ["Follow the colours.strength"],
    "lora": ["LoRA.strength_model", "LoRA.strength_clip"],
}
NAMED = torch.tensor(list(COLORS.values()))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """With a random LoRA for the embedded model."""
    spec = importlib.util.spec_from_file_location("make_lora", ROOT / "tests" / "tools" / "make_lora.py")
    lora = importlib.util.module_from_spec(spec)
    sys.modules["make_lora"] = lora  # dataclasses look their module up
    spec.loader.exec_module(lora)
    home = tmp_path_factory.mktemp("home")
    (home / "models" / "loras").mkdir(parents=True)
    factors = lora.make(lora.shapes_in(WEIGHTS), seed=0)
    save_file(lora.contiguous(lora.kohya(factors)), home / "models" / "loras" / "random.safetensors")
    return Folders(home)


@pytest.fixture(scope="module")
def graph() -> Workflow:
    """The shipped graph in few steps, with a LoRA between the checkpoint and all that reads it."""
    document = json.loads((ROOT / "workflows" / "two_controls.json").read_text())
    for node in document.values():
        for name in ("model", "clip"):
            if name in node["inputs"]:
                node["inputs"][name][0] = "lora"
    inputs = {"model": ["1", 0], "clip": ["1", 1], "lora_name": "random.safetensors", "strength_model": 0.2, "strength_clip": 0.2}
    document["lora"] = {"class_type": "LoraLoader", "inputs": inputs, "_meta": {"title": "LoRA"}}
    return Workflow.from_json(document).set("Sampler.steps", 12).set("Canvas.batch_size", 4)


def squares(pictures: Tensor) -> Tensor:
    """The nearest named colour of 8 x 8 squares."""
    return (coarse_colors(pictures)[..., None, :] - NAMED).norm(dim=-1).argmin(-1)


def test_both_controls_and_a_lora_act_beside_each_other(graph: Workflow, folders: Folders) -> None:
    with Engine(Registry.discover(), device=TorchDevice("cpu"), folders=folders) as engine:

        def made(off: str | None = None) -> tuple[Tensor, float, float]:
            """Latents; how far objects have the edges' shape; how many squares have the other scene's colours."""
            changed = graph
            for name in OFF[off] if off else ():
                changed = changed.set(name, 0.0)
            result = engine.run(changed, wanted=["Picture", "Scene for its edges", "Scene for its colours"])
            result.raise_for_error()
            pictures, hint = result["Picture"].pixels, result["Scene for its colours"].pixels
            shape = result.value("Scene for its edges", "mask").values.expand(len(pictures), -1, -1)
            share = (squares(pictures) == squares(hint)).float().mean().item()
            return result["Sampler"].x, iou(segment(pictures), shape).mean().item(), share

        both, shape, colors = made()
        assert shape > 0.65
        assert colors > 0.85
        assert made("edges")[1] < shape - 0.1  # the colours are a circle's
        assert made("colors")[2] < 0.3
        plain = made("lora")[0]
        assert (both - plain).std() > 0.05 * plain.std()
