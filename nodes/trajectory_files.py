"""Trajectories to and from files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

from pydantic import Field
from torch import Tensor

from diffusion.files import open_tensors, write_tensors
from diffusion.values import Trajectory
from graph_engine.errors import NodeError
from graph_engine.node import File, Node
from nodes.params import FilenamePrefix

if TYPE_CHECKING:
    from graph_engine.context import Context

KIND = "latentgraph.trajectory"
TENSORS = ("latents", "sigmas", "noises", "uncond", "coupled", "pooled")  # fields of a Trajectory; those that it has are in the file
NEEDED = TENSORS[:2]


def as_file(path: Trajectory) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and notes of a trajectory's file."""
    tensors = {name: tensor for name in TENSORS if (tensor := getattr(path, name)) is not None}
    notes = {"format": path.format, "eta": path.eta, "mixing": path.mixing, "evaluations": path.evaluations}
    return tensors, {KIND: json.dumps(notes)}


def from_file(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Trajectory:
    """The trajectory of a file's tensors and notes. Raises ValueError for a file of something else."""
    missing = [name for name in NEEDED if name not in tensors]
    if missing or KIND not in metadata:
        raise ValueError(f"a file that Save Trajectory wrote is wanted; it has no {' and no '.join(missing) or 'note that it is one'}")
    try:
        notes = json.loads(metadata[KIND])
        form, eta, mixing, asked = notes["format"], float(notes["eta"]), float(notes["mixing"]), int(notes["evaluations"])
    except (ValueError, KeyError, TypeError) as problem:
        raise ValueError(f"its notes are damaged ({type(problem).__name__}: {problem})") from problem
    if not (form is None or isinstance(form, str)) or not 0 <= eta <= 1 or not 0 < mixing <= 1:
        raise ValueError(f"its notes are damaged (format {form!r}, eta {eta}, mixing {mixing})")
    return Trajectory(
        **{name: tensors[name] for name in TENSORS if name in tensors}, format=form, eta=eta, mixing=mixing, evaluations=asked
    )


def opened(file: Path) -> Trajectory:
    """The trajectory that a file holds. Raises OSError or ValueError for one that cannot be read."""
    tensors = open_tensors(file)
    return from_file(tensors.read(tensors.shapes), tensors.metadata)


# nodes


class SaveTrajectory(Node, category="editing/inversion", title="Save Trajectory", output=True, aliases=("store inversion",)):
    """Write a trajectory, with what was stored along it, as a numbered safetensors file `.trajectory` into the output folder.

    What it hands on is read from that file.
    """

    trajectory: Trajectory
    filename_prefix: FilenamePrefix = "trajectories/latentgraph"

    def run(self, ctx: Context) -> Trajectory:
        tensors, notes = as_file(self.trajectory)
        if ctx.workflow:
            notes["prompt"] = json.dumps(ctx.workflow)

        def write(file: BinaryIO) -> None:
            write_tensors(file, tensors, notes)

        saved = ctx.save(self.filename_prefix, ".trajectory", write, media="application/octet-stream")
        return opened(Path(saved.path))


class LoadTrajectory(Node, category="editing/inversion", title="Load Trajectory", aliases=("open inversion",)):
    """A trajectory from a file that Save Trajectory wrote, in the input folder; an inversion is then not made anew."""

    trajectory: Annotated[str, File("trajectories"), Field(description="A .trajectory file.")]

    def run(self, ctx: Context) -> Trajectory:
        try:
            return opened(ctx.path("trajectories", self.trajectory))
        except (OSError, ValueError) as problem:
            raise NodeError(f"trajectory: {self.trajectory!r} cannot be read: {problem}") from problem
