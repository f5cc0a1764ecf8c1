"""Measure whether pictures follow the control networks: `python -m toybox.evaluate_control`; exits with 1 where they do not.

Scenes are held out. Captions name colours and shapes, but no place, so that only the hint can say where things are.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import logging

from toybox import WEIGHTS
from toybox.captions import caption
from toybox.control import KINDS, Control, load
from toybox.ddim import Diffuser
from toybox.gates import Gate, mean
from toybox.hints import colors_of
from toybox.palette import COLORS
from toybox.scenes import Scene, render, sample
from toybox.segment import iou, segment
from toybox.vae import HELD_OUT_SEED
from toybox.views import coarse_colors, edges

FIRST = HELD_OUT_SEED + 2_000_000  # beyond the scenes of the other measurements
STEPS, GUIDANCE = 30, 4.0


class Steered(nn.Module):
    """The U-Net with a control network at its side, for b hints; a batch of 2b is taken as two times the same pictures."""

    def __init__(self, side: Control, hints: Tensor) -> None:
        super().__init__()
        self.side, self.hints, self.config = side, hints, side.unet.config

    def forward(self, x: Tensor, t: int, encoder_hidden_states: Tensor) -> Any:
        hints = self.hints.repeat(len(x) // len(self.hints), 1, 1, 1)
        return self.side.unet(
            x, t, encoder_hidden_states, **self.side.residuals(x, torch.tensor([t] * len(x)), encoder_hidden_states, hints)
        )


def edge_hints(scenes: Sequence[Scene]) -> Tensor:
    """White lines on black, (b, 3, 128, 128)."""
    return edges(scenes).permute(0, 3, 1, 2)


def color_hints(scenes: Sequence[Scene]) -> Tensor:
    """Pictures of 8 x 8 even squares, (b, 3, 128, 128)."""
    return colors_of(coarse_colors(render(scenes)[0]))


def same_shapes(pictures: Tensor, scenes: Sequence[Scene]) -> list[float]:
    """Intersection over union of the objects in the pictures and in the scenes."""
    _, masks = render(scenes)
    return iou(segment(pictures, [scene.background.color for scene in scenes]), masks.amax(1)).tolist()


def same_colors(pictures: Tensor, scenes: Sequence[Scene]) -> list[float]:
    """The share of the 8 x 8 squares whose mean colour has the same nearest named colour as in the scene."""
    named = torch.tensor(list(COLORS.values()))
    drawn, wanted = ((coarse_colors(p)[..., None, :] - named).norm(dim=-1).argmin(-1) for p in (pictures, render(scenes)[0]))
    return (drawn == wanted).float().mean((1, 2)).tolist()


MEASURES: dict[str, tuple[Callable[[Sequence[Scene]], Tensor], Callable[[Tensor, Sequence[Scene]], list[float]], str]] = {
    "edges": (edge_hints, same_shapes, "ControlNet, IoU of objects with the edges'"),
    "colors": (color_hints, same_colors, "T2I-Adapter, squares of the hint's colour"),
}


def words(kind: str, scene: Scene) -> str:
    """A caption without places; for the colours also without colours, which leaves nothing."""
    return caption(scene, form="listed").text if kind == "edges" else ""


def measure(kind: str, model: Diffuser, folder: Path, n: int, batch: int, first: int) -> list[Gate]:
    """With and without the hint, on the same noise and captions."""
    side = Control(kind, load(kind, folder), model)
    hint, score, name = MEASURES[kind]
    scores: dict[bool, list[float]] = {True: [], False: []}
    best: list[float] = []
    for start in range(first, first + n, batch):
        seeds = list(range(start, min(start + batch, first + n)))
        scenes = [sample(seed, 1) for seed in seeds]
        texts = [words(kind, scene) for scene in scenes]
        best += score(render(scenes)[0], scenes)
        for steered in scores:
            drawer = replace(model, unet=Steered(side, hint(scenes))) if steered else model
            scores[steered] += score(drawer.sample(texts, seeds, STEPS, GUIDANCE), scenes)
    without = replace(mean(f"{name}, without", scores[False], 0.4, ""), at_most=True, goal=kind != "edges")
    return [mean(name, scores[True], 0.8, "", note=f"the scenes themselves {sum(best) / n:.3f}"), without]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m toybox.evaluate_control", description=__doc__)
    parser.add_argument("kinds", nargs="*", default=list(KINDS), help="edges (ControlNet), colors (T2I-Adapter)")
    parser.add_argument("--n", type=int, default=64, help="pictures")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0, help="another lot of scenes and noises")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    args = parser.parse_args()
    if unknown := set(args.kinds) - set(KINDS):
        parser.error(f"edges or colors is wanted, {', '.join(sorted(unknown))} given")
    logging.disable_progress_bar()
    model = Diffuser.load(args.weights)
    failed = False
    for kind in args.kinds:
        for gate in measure(kind, model, args.weights / "control" / kind, args.n, args.batch, FIRST + 100_000 * args.seed):
            print(gate.line(), flush=True)
            failed |= gate.failed
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
