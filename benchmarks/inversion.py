"""How well each inversion leads back to its picture, and how well one edits with it: rendered toybox scenes with one attribute changed.

    python benchmarks/inversion.py [--scenes 8] [--steps 50] [--guidance 7.5] [--edits]

Reconstructions are decoded and compared with what the autoencoder alone makes of the picture (PSNR in dB, mean and worst scene), at the
guidance of the decode. With --edits trajectories are replayed under the caption of the changed scene, without and with Prompt-to-Prompt:
whether the probe reads the new attribute, and the PSNR outside of the change, to the autoencoder's picture. EDICT is guided by 2 then,
both ways, and edit-friendly DDPM by 1 on the way up, as what is inverted with more guidance hardly changes.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import mean, stdev

import torch
from torch import Tensor

import toybox
from diffusion.compare import psnr
from diffusion.loading import open_checkpoint
from diffusion.memory import TorchDevice
from diffusion.text import encode
from diffusion.vae import decode
from diffusion.vae import encode as vae_encode
from diffusion.values import Conditioning, Image, Latent, Model, Trajectory
from graph_engine.context import Context
from nodes.ddim_inversion import DDIMInversion
from nodes.direct_inversion import DirectInversion
from nodes.edict import EDICTDecode, EDICTInversion
from nodes.edit_friendly_ddpm import EditFriendlyInversion
from nodes.negative_prompt_inversion import NegativePromptInversion
from nodes.null_text import NullTextInversion
from nodes.prompt_to_prompt import AlignPrompts, PromptToPrompt
from nodes.source_and_target import SourceAndTarget
from nodes.trajectory_replay import ReplayTrajectory
from toybox.captions import caption
from toybox.instructions import Edit, edit
from toybox.probe import Probe
from toybox.scenes import render

FIRST = 31_000_000  # seeds of scenes that nothing was trained on
LEAST = 1e-12  # mean squared error that counts as none, so that equal pictures come to 120 dB
EDICT = 2.0  # guidance of its edits
# from where edits are replayed, as a share of the steps: as published
STARTS = {"EDICT": {"": 0.8, "P2P": 0.8}, "edit-friendly DDPM": {"": 0.64, "P2P": 0.88}}
WAYS = ("DDIM", "DDIM, 3 iterations", "negative-prompt", "null-text", "direct", "EDICT", "edit-friendly DDPM")


@dataclass
class Scene:
    """A rendered pair, encoded, with its prompts."""

    pair: Edit
    latent: Latent
    kept: Tensor  # what the autoencoder makes of the source
    area: Tensor  # where the change may show
    source: Conditioning
    target: Conditioning


@dataclass
class Row:
    """What was measured of one way, by scene."""

    back: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    evaluations: int = 0
    edits: dict[str, list[tuple[bool, float]]] = field(default_factory=dict)


class Bench:
    """The embedded model, and every way of inverting and of replaying."""

    def __init__(self, steps: int, guidance: float) -> None:
        self.device = TorchDevice("cpu" if not torch.cuda.is_available() else "cuda")
        self.ctx = Context.silent(self.device)
        self.model, self.clip, self.vae = open_checkpoint(toybox.WEIGHTS)
        self.empty = self.told("")
        self.steps, self.w = steps, guidance
        self.probe = Probe.load()

    def told(self, text: str) -> Conditioning:
        return encode(self.clip, text, self.device)

    def pixels(self, latent: Latent) -> Tensor:
        return decode(self.vae, latent, self.device).pixels.cpu()

    def scenes(self, n: int, attributes: tuple[str, ...] = ("color", "shape")) -> Iterator[Scene]:
        for i in range(n):
            pair = edit(FIRST + i, attribute=attributes[i % len(attributes)])
            before, after = render([pair.before, pair.after])[0].split(1)
            area = (before - after).abs().amax(-1) > 0.02
            latent = vae_encode(self.vae, Image(before), self.device)
            prompts = (self.told(caption(scene).text) for scene in (pair.before, pair.after))
            yield Scene(pair, latent, self.pixels(latent), area, *prompts)

    def invert(self, way: str, scene: Scene, edits: bool = False) -> Trajectory:
        """The trajectory of a scene's source picture, to come back on or to edit with."""
        common = {"model": self.model, "samples": scene.latent, "positive": scene.source, "negative": self.empty, "steps": self.steps}
        if way == "EDICT":
            return EDICTInversion(**common, cfg=EDICT if edits else self.w).run(self.ctx).trajectory
        if way == "edit-friendly DDPM":
            return EditFriendlyInversion(**common, cfg=1.0 if edits else self.w).run(self.ctx).trajectory
        path = DDIMInversion(**common, iterations=3 if way == "DDIM, 3 iterations" else 0).run(self.ctx).trajectory
        if way == "negative-prompt":
            return NegativePromptInversion(trajectory=path, positive=scene.source).run(self.ctx).trajectory
        if way == "null-text":
            tuned = NullTextInversion(model=self.model, trajectory=path, positive=scene.source, negative=self.empty, cfg=self.w)
            return tuned.run(self.ctx).trajectory
        return path

    def replay(
        self, way: str, path: Trajectory, positive: Conditioning, model: Model | None = None, start: float = 1.0, w: float | None = None
    ) -> Tensor:
        """The decoded rows of a walk back under a prompt."""
        node = EDICTDecode if way == "EDICT" else ReplayTrajectory
        out = node(model=model or self.model, trajectory=path, positive=positive, negative=self.empty, cfg=w or self.w, start=start)
        return self.pixels(out.run(self.ctx).latent)

    def reconstruct(self, way: str, path: Trajectory, scene: Scene) -> Tensor:
        """The source picture again; direct inversion needs a target beside it."""
        if way != "direct":
            return self.replay(way, path, scene.source)
        return self.edit(way, path, scene, control=False, start=1.0)[:1]

    def edit(self, way: str, path: Trajectory, scene: Scene, control: bool, start: float) -> Tensor:
        """[source, edit], sampled side by side; `control`: with Prompt-to-Prompt."""
        model = DirectInversion(model=self.model, trajectory=path).run(self.ctx).model if way == "direct" else self.model
        both = SourceAndTarget(samples=scene.latent, source=scene.source, target=scene.target).run(self.ctx)
        if control:
            alignment = AlignPrompts(positive=both.positive, mode="replace").run(self.ctx)
            pinned = {"trajectory": path} if way == "edit-friendly DDPM" else {}
            model = PromptToPrompt(model=model, alignment=alignment, cross_replace=0.4, self_replace=0.4, **pinned).run(self.ctx)
        return self.replay(way, path, both.positive, model, start, EDICT if way == "EDICT" else None)

    def judged(self, picture: Tensor, scene: Scene) -> tuple[bool, float]:
        """(whether the probe reads the new attribute, PSNR outside of the change)."""
        found = self.probe.read(picture)[0].agreement(scene.pair.after)
        return bool(found[scene.pair.attribute]), psnr(picture, scene.kept, (~scene.area).float())


def capped(a: Tensor, b: Tensor) -> float:
    """PSNR in dB, at most 120."""
    return min(psnr(a, b), -10 * math.log10(LEAST))


def interval(values: list[float]) -> str:
    half = 1.96 * stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{mean(values):6.1f} ± {half:4.1f}"


def measure(bench: Bench, n: int, edits: bool, ways: tuple[str, ...]) -> dict[str, Row]:
    """All rows for n scenes, printed as they come."""
    rows = {way: Row() for way in ways}
    scenes = list(bench.scenes(n))
    print(f"{n} scenes, {bench.steps} steps, guidance {bench.w:g}")
    for way, row in rows.items():
        for scene in scenes:
            began = time.process_time()
            path = bench.invert(way, scene)
            row.seconds.append(time.process_time() - began)
            row.evaluations = path.evaluations
            row.back.append(capped(bench.reconstruct(way, path, scene), scene.kept))
            if edits:
                if way in STARTS:
                    path = bench.invert(way, scene, edits=True)
                for kind, start in STARTS.get(way, {"": 1.0, "P2P": 1.0}).items():
                    picture = bench.edit(way, path, scene, control=bool(kind), start=start)[1:]
                    row.edits.setdefault(kind, []).append(bench.judged(picture, scene))
        line = f"{way:20} back {interval(row.back)} dB, worst {min(row.back):6.1f}"
        line += f"; {row.evaluations:5} evaluations, {mean(row.seconds):5.1f} s"
        for kind, seen in row.edits.items():
            line += f"; {kind or 'edit'} {mean(won for won, _ in seen):4.2f}, ground {interval([db for _, db in seen])} dB"
        print(line, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scenes", type=int, default=8)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=7.5)
    parser.add_argument("--edits", action="store_true")
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=WAYS)
    told = parser.parse_args()
    measure(Bench(told.steps, told.guidance), told.scenes, told.edits, tuple(told.ways))


if __name__ == "__main__":
    main()
