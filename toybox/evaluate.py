"""Measure the shipped model against its gates: `python -m toybox.evaluate`; exits with 1 where one is not met.

All scenes are held out: their seeds lie beyond what the generator, the autoencoder or the probe was trained on.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.utils import logging

from toybox import WEIGHTS
from toybox.captions import caption
from toybox.ddim import Diffuser, noise
from toybox.gates import Gate, mean, rate
from toybox.probe import Probe
from toybox.reading import OF_OBJECT, Reading
from toybox.scenes import COLORS, HELD_OUT_SHAPES, HELD_OUT_TEXTURES, SHAPES, SUBJECTS, TEXTURES, Scene, render, sample
from toybox.segment import iou
from toybox.tokenizer import UNTRAINED
from toybox.train_probe import mixed_scenes
from toybox.vae import HELD_OUT_SEED

T = TypeVar("T")
STEPS, GUIDANCE = 50, 5.0
LOOK_AT = 300  # the timestep at which attention maps are taken
CUTS = (0.5, 0.3)  # of a map's maximum; Prompt-to-Prompt's local blend cuts at 0.3 (Hertz et al. 2022)
PROBED = (*OF_OBJECT, "count", "background_color", "texture")
ONE_OBJECT = ("color", "shape", "background_color", "position", "texture")
SEEDS = {  # where each measurement's scenes start
    name: HELD_OUT_SEED + 100_000 * (k + 1)
    for k, name in enumerate(("autoencoder", "probe", "one", "two", "attention", "inversion", "untrained"))
}


@dataclass(frozen=True, slots=True)
class Bench:
    """What is measured, with how many pictures and in what batches."""

    model: Diffuser
    probe: Probe
    n: int
    batch: int
    seed: int = 0

    def first(self, name: str) -> int:
        """The first of a measurement's seeds, for scenes and for noise."""
        return SEEDS[name] + 1_000_000 * self.seed

    def scenes(self, name: str, count: int, n_objects: int | None = None, related: bool = False) -> list[Scene]:
        """Held-out scenes; `related` ones have objects that stand side by side or one above the other."""
        found = (sample(self.first(name) + i, n_objects) for i in range(100_000))
        wanted = (scene for scene in found if not related or scene.relation)
        return [next(wanted) for _ in range(count)]

    def draw(self, texts: Sequence[str], first_seed: int) -> list[Reading]:
        """What the probe reads in the pictures that the model makes of the captions."""
        readings: list[Reading] = []
        for part in batches(range(len(texts)), self.batch):
            pictures = self.model.sample([texts[i] for i in part], [first_seed + i for i in part], STEPS, GUIDANCE)
            readings += self.probe.read(pictures)
        return readings


def batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for i in range(0, len(items), size):
        yield items[i : i + size]


def psnr(a: Tensor, b: Tensor) -> list[float]:
    """Decibels by picture of (b, ...) in 0..1; 120 where nothing or next to nothing differs."""
    error = (a - b).double().square().flatten(1).mean(1).clamp(min=1e-12)
    return (-10 * error.log10()).tolist()


@torch.no_grad()
def autoencoder(bench: Bench) -> list[Gate]:
    """How well pictures survive the autoencoder."""
    values: list[float] = []
    for scenes in batches(bench.scenes("autoencoder", bench.n), bench.batch):
        pictures, _ = render(scenes)
        values += psnr(bench.model.pictures(bench.model.latents(pictures)), pictures)
    return [mean("autoencoder, held-out scenes, PSNR", values, 31, "dB")]


@torch.no_grad()
def probe(bench: Bench) -> list[Gate]:
    """How often the probe reads an attribute right in every object of a picture; every third scene has something held out."""
    right: dict[tuple[str, str], list[bool]] = {(kind, name): [] for kind in ("clean", "decoded") for name in PROBED}
    for scenes in batches(mixed_scenes(bench.first("probe"), 4 * bench.n), bench.batch):
        clean, _ = render(scenes)
        for kind, pictures in (("clean", clean), ("decoded", bench.model.pictures(bench.model.latents(clean)))):
            for scene, reading in zip(scenes, bench.probe.read(pictures), strict=True):
                for name, agrees in reading.agreement(scene).items():
                    if name in PROBED:
                        right[kind, name].append(agrees)
    worded = {"clean": ("probe on renders", 0.99), "decoded": ("probe after the autoencoder", 0.97)}
    return [rate(f"{worded[kind][0]}: {name}", hits, worded[kind][1]) for (kind, name), hits in right.items()]


def one_object(bench: Bench) -> list[Gate]:
    """Whether pictures of one object show what their full captions say."""
    scenes = bench.scenes("one", bench.n, 1)
    readings = bench.draw([caption(scene).text for scene in scenes], bench.first("one"))
    pairs = list(zip(readings, scenes, strict=True))
    gates = [rate(f"one object: {name}", [r.agreement(s)[name] for r, s in pairs], 0.97) for name in ONE_OBJECT]
    return [*gates, rate("one object: all at once", [r.matches(s, ("count", *ONE_OBJECT)) for r, s in pairs], 0.95)]


def two_objects(bench: Bench) -> list[Gate]:
    """Whether pictures of two show two, each with its own attributes; half of the captions place them, half relate them."""
    scenes = bench.scenes("two", bench.n, 2, related=True)
    forms: list[Literal["placed", "related"]] = [("placed", "related")[i % 2] for i in range(len(scenes))]
    texts = [caption(scene, form=form).text for scene, form in zip(scenes, forms, strict=True)]
    rows = list(zip(bench.draw(texts, bench.first("two")), scenes, forms, strict=True))
    placed = [r.agreement(s)["position"] for r, s, form in rows if form == "placed"]
    relation = [r.relation(s) == s.relation for r, s, form in rows if form == "related"]
    return [
        rate("two objects: exactly two", [r.count.label == "2" for r, _, _ in rows], 0.93),
        rate("two objects: each its colour and shape", [r.matches(s, ("count", "color", "shape")) for r, s, _ in rows], 0.90),
        rate("two objects: both where the caption puts them", placed, 0.85, goal=True, note="captions with two places"),
        rate("two objects: in the stated relation", relation, 0.85, goal=True, note="captions with the relation alone"),
    ]


@torch.no_grad()
def attention(bench: Bench) -> list[Gate]:
    """How well the noun's map, cut at a share of its maximum, covers the object's mask on the 16 x 16 grid."""
    values: dict[float, list[float]] = {cut: [] for cut in CUTS}
    scenes = bench.scenes("attention", bench.n)
    for part in batches(range(len(scenes)), bench.batch):
        chosen = [scenes[i] for i in part]
        captions = [caption(scene) for scene in chosen]
        pictures, masks = render(chosen)
        alpha, sigma = bench.model.level(LOOK_AT)
        z = bench.model.latents(pictures)
        x = alpha * z + sigma * noise([bench.first("attention") + i for i in part], z.shape[-1])
        maps = bench.model.looked_at(x, LOOK_AT, bench.model.text([c.text for c in captions]))
        small = F.adaptive_avg_pool2d(masks, 16)
        for row, (scene, said) in enumerate(zip(chosen, captions, strict=True)):
            for k in range(len(scene.objects)):
                start, end, _ = [w for w in said.words if w[2] == k and said.text[w[0] : w[1]] == scene.objects[k].shape][-1]
                seen = maps[row, tokens_of(bench.model, said.text, start, end)].mean(0)
                for cut, found in values.items():
                    found.append(iou((seen > cut * seen.max()).float(), small[row, k]).item())
    return [mean(f"noun's attention on its object, t {LOOK_AT}, > {cut}", found, 0.60, "", note="IoU") for cut, found in values.items()]


def tokens_of(model: Diffuser, text: str, start: int, end: int) -> list[int]:
    """The places among the tokens of the text's characters start to end."""
    spans = model.tokenizer(text, return_offsets_mapping=True).offset_mapping
    return [place for place, (a, b) in enumerate(spans) if a < end and b > start]


@torch.no_grad()
def inversion(bench: Bench) -> list[Gate]:
    """What noise and back does to a picture, at guidance 1 and beyond what the autoencoder does to it."""
    found: dict[int, list[float]] = {0: [], 2: []}
    for scenes in batches(bench.scenes("inversion", max(bench.n // 8, 8)), bench.batch):
        z = bench.model.latents(render(scenes)[0])
        text = bench.model.text([caption(scene).text for scene in scenes])
        wanted = bench.model.pictures(z)
        for iterations, values in found.items():
            back = bench.model.denoise(bench.model.invert(z, text, STEPS, iterations), text, STEPS)
            values += psnr(bench.model.pictures(back), wanted)
    return [
        mean(f"DDIM inversion, {STEPS} steps, guidance 1, PSNR", found[0], 42, "dB"),
        mean("... with two fixed-point iterations", found[2], 42, "dB"),
    ]


def untrained(bench: Bench) -> list[Gate]:
    """How often held-out things come when they are named, by their own words and by the words that mean nothing yet."""
    lot = random.Random(f"toybox untrained {bench.seed}")
    texts = []
    for i in range(bench.n // 2):
        color, ground = lot.sample(list(COLORS), 2)
        texture, shape, word = lot.choice(TEXTURES), lot.choice(SHAPES), UNTRAINED[i % len(UNTRAINED)]
        thing = (HELD_OUT_SHAPES * 2 + UNTRAINED)[i // 4 % 10]
        texts.append(
            (
                f"a {color} {thing} in the center on a {ground} {texture} background",
                f"a {color} {shape} in the center on a {ground} {HELD_OUT_TEXTURES[0]} background",
                f"a {word} {shape} in the center on a {ground} {word} background",
                f"a photo of a {word} square and a {word} ring on a {ground} {texture} background",
            )[i % 4]
        )
    unseen = HELD_OUT_SHAPES + SUBJECTS

    def shown(reading: Reading) -> bool:
        return reading.texture.label in HELD_OUT_TEXTURES or any(o.shape.label in unseen for o in reading.objects)

    return [rate("held-out things by untrained words", [shown(r) for r in bench.draw(texts, bench.first("untrained"))], 0.03, at_most=True)]


MEASUREMENTS: tuple[Callable[[Bench], list[Gate]], ...] = (
    autoencoder, probe, one_object, two_objects, attention, inversion, untrained,
)  # fmt: skip


def evaluate(bench: Bench, tell: Callable[[str], None] = print) -> list[Gate]:
    """All measurements in turn, each told as soon as it is known."""
    gates: list[Gate] = []
    for measure in MEASUREMENTS:
        start = time.monotonic()
        new = measure(bench)
        gates += new
        for gate in new:
            tell(gate.line())
        tell(f"{'':<46} {measure.__name__} took {time.monotonic() - start:.0f} s")
    return gates


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m toybox.evaluate", description=__doc__)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--probe", type=Path, help="its folder, where it is not among the weights")
    parser.add_argument("--n", type=int, default=256, help="pictures to a gate (more or fewer where a gate says so)")
    parser.add_argument("--quick", action="store_true", help="32 pictures to a gate: indicative only")
    parser.add_argument("--seed", type=int, default=0, help="which held-out scenes")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, help="write the gates to this file")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    logging.disable_progress_bar()
    n = 32 if args.quick else args.n
    start = time.monotonic()
    bench = Bench(Diffuser.load(args.weights), Probe.load(args.probe or args.weights / "probe"), n, args.batch, args.seed)
    if args.quick:
        print("quick: 32 pictures to a gate, so the gates are indicative only")
    print(f"{'gate':<46} {'value':>10} {'95 % interval':>18}")
    gates = evaluate(bench)
    failed = [gate for gate in gates if gate.failed]
    print(f"{len(failed)} of {len(gates)} gates failed, {time.monotonic() - start:.0f} s")
    if args.json:
        args.json.write_text(json.dumps([gate.as_dict() for gate in gates], indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
