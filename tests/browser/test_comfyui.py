"""Graphs as ComfyUI saves them, dropped on the page in either format."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from driving import Keep, api_graph, blank, by_type, drop, of_type, put, run, shown
from PIL import Image

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.xdist_group("browser")]

ROOT = Path(__file__).parents[2]
HERE = ROOT / "workflows" / "comfyui"
FILES = sorted(HERE.glob("*.json"))
SD1 = "v1-5-pruned-emaonly-fp16.safetensors"  # here a small one with random weights; of the others only the names are there
NAMED = {
    "checkpoints": ("sd_xl_base_1.0.safetensors", "sd_xl_refiner_1.0.safetensors"),
    "loras": ("epiNoiseoffset_v2.safetensors", "theovercomer8sContrastFix_sd15.safetensors"),
    "controlnet": ("control_v11p_sd15_canny_fp16.safetensors",),
    "upscale_models": ("RealESRGAN_x2.safetensors",),
}


@pytest.fixture(scope="module")
def stocked(server: Any) -> Any:
    """The server, with files under all names that the graphs ask for."""
    models = server.home / "models"
    for kind, names in NAMED.items():
        (models / kind).mkdir(parents=True, exist_ok=True)
        for name in names:
            (models / kind / name).touch()
    spec = importlib.util.spec_from_file_location("tiny_checkpoint", ROOT / "tests" / "diffusion" / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.write_checkpoint(models / "checkpoints" / SD1)
    (server.home / "input").mkdir(exist_ok=True)
    Image.new("RGBA", (64, 64), (250, 120, 0, 128)).save(server.home / "input" / "example.png")
    return server


def opened_graph(page: Any, file: Path) -> dict[str, Any]:
    """What the page would queue after a file was dropped on it."""
    blank(page)
    drop(page, file.name, file.read_bytes(), "application/json")
    page.wait_for_function("() => window.app.graph.nodes.length > 0")
    return api_graph(page)


def test_all_open_in_both_formats_as_the_graphs_they_are(stocked: Any, editor: tuple[Any, Any]) -> None:
    page, _ = editor
    assert len(FILES) == 20
    for file in FILES:
        found = opened_graph(page, file)
        saved = json.loads((HERE / f"{file.name.partition('.')[0]}.json").read_text())
        assert {id: (node["class_type"], node["inputs"]) for id, node in found.items()} == {
            id: (node["class_type"], node["inputs"]) for id, node in saved.items()
        }, file.name
        assert {id: node["_meta"]["title"] for id, node in found.items()} == {id: node["_meta"]["title"] for id, node in saved.items()}
        marked = page.evaluate("window.app.graph.nodes.filter((node) => node.has_errors).map((node) => node.title)")
        assert marked == [], file.name
        assert page.get_by_role("dialog").count() == 0, file.name


@pytest.mark.parametrize("format", ["json", "editor.json"])
def test_one_runs_from_the_page(format: str, stocked: Any, editor: tuple[Any, Any], picture: Keep) -> None:
    page, _ = editor
    opened_graph(page, HERE / f"image_to_image.{format}")
    assert shown(page, by_type(page, "LoadImage")) == [[64, 64]]
    sampler = by_type(page, "KSampler")
    put(page, sampler, "steps", 2)
    assert of_type(run(page), "execution_success")
    assert shown(page, by_type(page, "SaveImage")) == [[64, 64]]
    picture(page, f"comfyui-{format}")
