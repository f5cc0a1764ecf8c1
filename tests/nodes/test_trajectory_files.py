"""Trajectories in files: bit for bit the same again, and what is no such file is told apart."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, safe_open, save_file

from diffusion.text import encode
from diffusion.values import Latent, Trajectory
from graph_engine.context import Context
from graph_engine.errors import NodeError
from nodes.ddim_inversion import DDIMInversion
from nodes.edict import EDICTDecode, EDICTInversion
from nodes.edit_friendly_ddpm import EditFriendlyInversion
from nodes.negative_prompt_inversion import NegativePromptInversion
from nodes.null_text import NullTextInversion
from nodes.trajectory_files import KIND, LoadTrajectory, SaveTrajectory
from nodes.trajectory_replay import ReplayTrajectory

STEPS = 3


@pytest.fixture
def stored(ctx, folders):
    """A trajectory's file, moved to where files are loaded from: its path there."""

    def save(path: Trajectory, **more) -> Path:
        ctx.artifacts.clear()
        SaveTrajectory(trajectory=path, **more).run(ctx)
        (artifact,) = ctx.artifacts
        assert artifact.path.endswith(".trajectory")
        assert artifact.type == "output"
        return Path(shutil.copy(artifact.path, folders.places("trajectories")[0] / "it.trajectory"))

    return save


@pytest.fixture
def inverted(ctx, model, red, blue, clip, device):
    """One trajectory of each kind, and how it is replayed."""
    latent = Latent(torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)))
    picture = {"model": model, "samples": latent, "positive": red, "negative": blue, "steps": STEPS}

    def made(way):
        path = DDIMInversion(**picture).run(ctx).trajectory
        if way == "null-text":
            node = NullTextInversion(model=model, trajectory=path, positive=red, negative=encode(clip, "", device), cfg=3.0, inner_steps=1)
            return node.run(ctx).trajectory
        if way == "negative-prompt":
            return NegativePromptInversion(trajectory=path, positive=red).run(ctx).trajectory
        if way in ("edict", "edit-friendly"):
            return {"edict": EDICTInversion, "edit-friendly": EditFriendlyInversion}[way](**picture, cfg=3.0).run(ctx).trajectory
        return path

    return made


@pytest.mark.parametrize("way", ["ddim", "null-text", "negative-prompt", "edict", "edit-friendly"])
def test_what_was_stored_comes_back_bit_for_bit_and_is_replayed_alike(stored, inverted, ctx, model, red, blue, way):
    path = inverted(way)
    stored(path)
    again = LoadTrajectory(trajectory="it.trajectory").run(ctx)
    for field in fields(Trajectory):
        before, after = getattr(path, field.name), getattr(again, field.name)
        if isinstance(before, torch.Tensor):
            assert after.dtype == before.dtype
            assert torch.equal(after, before)
        else:
            assert after == before
    node = EDICTDecode if way == "edict" else ReplayTrajectory
    first, second = (node(model=model, trajectory=p, positive=red, negative=blue, cfg=3.0).run(ctx).latent.x for p in (path, again))
    assert torch.equal(first, second)


def test_saving_hands_on_what_the_file_has(inverted, ctx):
    path = inverted("ddim")
    again = SaveTrajectory(trajectory=path).run(ctx)
    assert again is not path
    assert torch.equal(again.latents, path.latents)


def test_files_are_numbered_and_know_their_graph(inverted, folders, device):
    ctx = Context.silent(device, folders, workflow={"1": {"class_type": "DDIMInversion"}})
    for _ in range(2):
        SaveTrajectory(trajectory=inverted("ddim"), filename_prefix="ways/cat").run(ctx)
    assert [artifact.filename for artifact in ctx.artifacts] == ["cat_00001_.trajectory", "cat_00002_.trajectory"]
    with safe_open(ctx.artifacts[0].path, framework="pt") as file:
        assert json.loads(file.metadata()["prompt"]) == {"1": {"class_type": "DDIMInversion"}}


def test_a_batch_and_a_part_are_stored_as_they_are(stored, inverted, ctx):
    path = inverted("ddim")
    both = replace(path, latents=path.latents[:2].expand(-1, 2, -1, -1, -1), sigmas=path.sigmas[:2])
    stored(both)
    assert torch.equal(LoadTrajectory(trajectory="it.trajectory").run(ctx).latents, both.latents)


def spoiled(file: Path, how: str) -> None:
    tensors, notes = load_file(file), {KIND: json.dumps({"format": "sd1", "eta": 0.0, "mixing": 1.0, "evaluations": 3})}
    match how:
        case "truncated":
            file.write_bytes(file.read_bytes()[:-100])
            return
        case "text":
            file.write_text("no tensors")
            return
        case "another kind":
            notes = {}
        case "without levels":
            del tensors["sigmas"]
        case "too few levels":
            tensors["sigmas"] = tensors["sigmas"][:-1].clone()
        case "no list of notes":
            notes = {KIND: "[]"}
        case "broken notes":
            notes = {KIND: "{"}
        case "impossible notes":
            notes = {KIND: json.dumps({"format": "sd1", "eta": 7, "mixing": 1.0, "evaluations": 3})}
    save_file(tensors, file, notes)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("truncated", "truncated"),
        ("text", "not a safetensors file"),
        ("another kind", "a file that Save Trajectory wrote is wanted; it has no note that it is one"),
        ("without levels", "it has no sigmas"),
        ("too few levels", r"Trajectory.sigmas: shape \(4,\) is wanted, \(3,\) given"),
        ("no list of notes", r"its notes are damaged \(TypeError"),
        ("broken notes", r"its notes are damaged \(JSONDecodeError"),
        ("impossible notes", r"its notes are damaged \(format 'sd1', eta 7.0"),
    ],
)
def test_another_file_is_refused(stored, inverted, ctx, how, message):
    spoiled(stored(inverted("ddim")), how)
    with pytest.raises(NodeError, match=rf"trajectory: 'it.trajectory' cannot be read: .*{message}"):
        LoadTrajectory(trajectory="it.trajectory").run(ctx)


def test_a_missing_file_and_one_outside_are_refused(ctx):
    with pytest.raises(NodeError, match=r"there is no 'none.trajectory' in"):
        LoadTrajectory(trajectory="none.trajectory").run(ctx)
    with pytest.raises(NodeError, match="is not the name of a file"):
        LoadTrajectory(trajectory="../it.trajectory").run(ctx)
