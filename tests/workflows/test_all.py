"""Every shipped workflow is sound and runs: here on a small model with random weights and in few steps."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from diffusion.memory import TorchDevice
from graph_engine.engine import Engine
from graph_engine.entry import Link
from graph_engine.files import Folders
from graph_engine.registry import Registry
from graph_engine.validate import validate
from graph_engine.workflow import Workflow
from toybox import WEIGHTS

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "workflows").glob("*.json"))
FEW = {"steps": 2, "batch_size": 1}
NEEDS_PROBE = pytest.mark.skipif(not (WEIGHTS / "probe" / "config.json").is_file(), reason="the probe is not trained yet")


@pytest.fixture(scope="session")
def registry() -> Registry:
    return Registry.discover()


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = ROOT / "tests" / "diffusion" / "conftest.py"
    spec = importlib.util.spec_from_file_location("tiny_checkpoint", source)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("checkpoints")
    module.write_checkpoint(folder / "tiny")
    return folder


@pytest.fixture
def folders(tmp_path: Path, checkpoints: Path) -> Folders:
    return Folders(tmp_path, {"checkpoints": [checkpoints]})


@pytest.fixture(scope="session")
def device() -> TorchDevice:
    return TorchDevice("cpu")


def small(workflow: Workflow) -> Workflow:
    """The workflow in few steps, and on the small model unless it has networks that fit the toybox alone."""
    tied = any(entry.class_type in ("ControlNetLoader", "UNETLoader") for entry in workflow.nodes.values())
    for id, entry in workflow.nodes.items():
        for name, value in entry.inputs.items():
            if name in FEW and not isinstance(value, Link):
                workflow = workflow.set(f"{id}.{name}", FEW[name])
        if entry.class_type == "CheckpointLoaderSimple" and not tied:
            workflow = workflow.set(f"{id}.ckpt_name", "tiny")
    return workflow


def test_there_are_workflows():
    assert {"first_edit", "text_to_image", "image_to_image", "inpaint"} <= {file.stem for file in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_is_sound_and_says_what_its_nodes_are_for(file, registry, folders):
    workflow = Workflow.load(file)
    assert validate(workflow, registry.specs, folders, registry=registry) == []
    titles = [entry.title for entry in workflow.nodes.values()]
    assert all(titles)
    assert len(set(titles)) == len(titles)
    assert {entry.inputs["ckpt_name"] for entry in workflow.nodes.values() if "ckpt_name" in entry.inputs} <= {"toybox"}


@pytest.mark.parametrize(
    "file", [pytest.param(file, marks=NEEDS_PROBE if "probe" in file.stem else ()) for file in FILES], ids=lambda file: file.stem
)
def test_it_runs(file, registry, folders, device):
    with Engine(registry, device=device, folders=folders, debug=True) as engine:
        result = engine.run(small(Workflow.load(file)))
    result.raise_for_error()
    saved = [artifact for artifact in result.artifacts if artifact.type == "output"]
    assert saved
    pictures = [artifact.path for artifact in saved if artifact.path.endswith(".png")]
    assert pictures
    for path in pictures:
        with Picture.open(path) as picture:
            assert picture.size == (128, 128)
            assert json.loads(picture.text["prompt"])


def test_a_saved_picture_runs_again_to_the_same_pixels(registry, folders, device):
    workflow = small(Workflow.load(ROOT / "workflows" / "text_to_image.json"))
    with Engine(registry, device=device, folders=folders) as engine:
        (first,) = engine.run(workflow).artifacts
    with Engine(registry, device=device, folders=folders) as engine:  # nothing is remembered
        (again,) = engine.run(Workflow.load(first.path)).artifacts
    assert first.path != again.path
    assert np.array_equal(np.asarray(Picture.open(first.path)), np.asarray(Picture.open(again.path)))


def test_only_what_a_new_seed_changes_is_computed_again(registry, folders, device):
    workflow = small(Workflow.load(ROOT / "workflows" / "text_to_image.json"))
    (sampler,) = (id for id, entry in workflow.nodes.items() if entry.class_type == "KSampler")
    with Engine(registry, device=device, folders=folders) as engine:
        everything = engine.run(workflow)
        assert len(everything.executed) == len(workflow.nodes)
        again = engine.run(workflow)
        assert again.executed == ()
        changed = engine.run(workflow.set(f"{sampler}.seed", 99))
    types = {workflow.nodes[id].class_type for id in changed.executed}
    assert types == {"KSampler", "VAEDecode", "SaveImage"}
