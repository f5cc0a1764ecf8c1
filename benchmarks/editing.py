"""How well each way of editing does on pairs whose truth is known ("mini-PIE"): `python benchmarks/editing.py --quick`.

A pair is a rendered scene and the same scene with one attribute changed; its captions, the area of the change and the true result are
known. Measured as in PIE-Bench (Ju et al. 2024), with the toybox's probe for CLIP and the toybox U-Net's keys for DINO's:

structure     1,000 x the mean squared difference of the cosine self-similarities of the middle block's keys at timestep 50, to the source
bg PSNR ...   to the source, where nothing is to change
target        how probable the probe finds the wanted value in the picture (for objects: of the object that fits best)
edit error    1,000 x the mean squared difference to the true result, where something is to change
NFE           rows that the network was asked about
seconds       on the wall; of the processor's time on one thread of a CPU, so that other programs do not count
peak          megabytes of memory beyond what was in use before

Each with its 95 % interval (normal for means). "source" is the unedited picture, "regenerate" the target prompt on the source's noise seed.
Last, what the papers say about ranks, as paired differences. The ways and their settings are in `editing_ways.py`; Imagic trains, so it
sees every fourth pair and has no row in a quick run. Pairs for tuning are those of --seed 1.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from editing_ways import GROUND, STEPS, WAYS, Case
from PIL import Image as Picture
from PIL import ImageDraw
from torch import Tensor

from diffusion import session
from diffusion.compare import mse, psnr, ssim
from diffusion.image import to_pil
from graph_engine import Engine, Folders, Graph, Registry
from toybox.ddim import Diffuser
from toybox.instructions import Edit, edit
from toybox.probe import Probe
from toybox.reading import Reading
from toybox.scenes import render

FIRST = 30_000_000  # seeds of scenes that nothing was trained on
ATTRIBUTES = ("color", "shape", "background_color")
CLOCK = time.perf_counter if torch.cuda.is_available() or torch.get_num_threads() > 1 else time.process_time
WIDTH = {"nfe": 7, "seconds": 9, "peak": 7}  # columns without an interval
TRAINING = {"Imagic": 4}  # ways that train see every so manyth pair, and none in a quick run


@dataclass
class Row:
    """What was measured of one way."""

    pairs: dict[int, dict[str, float]] = field(default_factory=dict)  # by number of the pair

    def add(self, pair: int, **values: float) -> None:
        self.pairs[pair] = values

    @property
    def values(self) -> dict[str, list[float]]:
        """Of each measure, all figures."""
        names = next(iter(self.pairs.values()), {})
        return {name: [figures[name] for figures in self.pairs.values()] for name in names}


def achieved(reading: Reading, pair: Edit) -> float:
    """How probable the wanted value is by a reading of the probe; 0 where it reads another one."""
    name = pair.attribute
    if name in GROUND:
        guess, wanted = getattr(reading, name), getattr(pair.after.background, name.removeprefix("background_"))
    else:
        found = reading.assign(pair.after)[pair.object]
        if found is None:
            return 0.0
        guess, wanted = getattr(found, name), getattr(pair.after.objects[pair.object], name)
    probability: float = guess.probability
    return probability if guess.label == wanted else 0.0


class Judge:
    """The probe and the keys."""

    def __init__(self) -> None:
        self.probe, self.model = Probe.load(), Diffuser.load()

    @torch.no_grad()
    def keys(self, picture: Tensor) -> Tensor:
        """Cosine similarity between all places' keys in the middle block's self-attention, at timestep 50 without noise."""
        seen: list[Tensor] = []
        layer = self.model.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_k
        hook = layer.register_forward_hook(lambda module, args, out: seen.append(out[0]))
        try:
            self.model.predict(self.model.latents(picture), 50, self.model.text([""]))
        finally:
            hook.remove()
        k = torch.nn.functional.normalize(seen[0].float(), dim=-1)
        return k @ k.T


@contextmanager
def counted() -> Iterator[list[int]]:
    """How many rows the network is asked about while this is open."""
    rows = [0]
    plain = session.Net._network

    def counting(net: Any, parts: Any, x: Tensor, moment: Any) -> Any:
        rows[0] += len(parts) * x.shape[0]
        return plain(net, parts, x, moment)

    session.Net._network = counting  # type: ignore[method-assign]
    try:
        yield rows
    finally:
        session.Net._network = plain  # type: ignore[method-assign]


def memory() -> tuple[float, Callable[[], float]]:
    """Megabytes in use now, and a function for the most there were since."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20, lambda: torch.cuda.max_memory_allocated() / 2**20
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def read(name: str) -> float:
        return next((int(line.split()[1]) / 1024 for line in status.read_text().splitlines() if line.startswith(name)), float("nan"))

    try:
        clear.write_text("5")  # the high-water mark starts anew (Linux)
    except OSError:
        return float("nan"), lambda: float("nan")
    return read("VmRSS"), lambda: read("VmHWM")


def measured(judge: Judge, pair: Edit, picture: Tensor) -> dict[str, float]:
    """A picture against its pair."""
    (before, after), masks = render([pair.before, pair.after])
    before, after = before[None], after[None]
    changed = (before != after).any(-1).float()
    if pair.attribute not in GROUND:
        changed = masks[:, pair.object].amax(0, keepdim=True)
    edited = (torch.nn.functional.max_pool2d(changed[:, None], 5, 1, 2)[:, 0] > 0.05).float()
    kept = 1 - edited
    return {
        "structure": 1000 * (judge.keys(picture) - judge.keys(before)).square().mean().item(),
        "bg_psnr": min(psnr(picture, before, kept), 80.0),
        "bg_ssim": 100 * ssim(picture, before, kept),
        "bg_mse": 1000 * mse(picture, before, kept),
        "target": 100 * achieved(judge.probe.read(picture)[0], pair),
        "edit_error": 1000 * mse(picture, after, edited),
    }


def interval(values: list[float]) -> tuple[float, float]:
    """The mean of what is a number, and half its 95 % interval."""
    kept = [value for value in values if value == value]
    if not kept:
        return float("nan"), float("nan")
    return fmean(kept), (1.96 * stdev(kept) / len(kept) ** 0.5 if len(kept) > 1 else float("nan"))


@dataclass(frozen=True)
class Claim:
    """That the first way's figure is better than the second's: higher if `up`, else lower; over pairs that both edited if `both`."""

    said: str
    measure: str
    first: str
    second: str
    up: bool
    both: bool = False


CLAIMS = (
    Claim("a mask keeps the background", "bg_psnr", "DiffEdit", "target prompt, DDIM", True),
    Claim("a mask keeps the background", "bg_psnr", "SDEdit 0.6, DiffEdit's mask", "SDEdit 0.6", True),
    Claim("a mask keeps the background", "bg_psnr", "image to image, true mask", "image to image 0.6", True),
    Claim("local blend keeps the background", "bg_psnr", "P2P + blend, direct", "P2P, direct", True),
    Claim("direct inversion beats DDIM on structure", "structure", "P2P, direct", "P2P, DDIM", False),
    Claim("null-text inversion beats DDIM on structure", "structure", "P2P, null-text", "P2P, DDIM", False),
    Claim("P2P beats regeneration on structure at equal success", "structure", "P2P, direct", "regenerate", False, both=True),
    Claim("P2P beats regeneration on structure at equal success", "structure", "P2P + blend, direct", "regenerate", False, both=True),
)


def verdict(claim: Claim, first: Row, second: Row) -> str:
    """The claim with its mean paired difference, the 95 % interval of that, and whether it holds: yes, no, or undecided."""
    pairs = sorted(first.pairs.keys() & second.pairs.keys())
    rows = [(first.pairs[i], second.pairs[i]) for i in pairs]
    if claim.both:
        rows = [(a, b) for a, b in rows if min(a["target"], b["target"]) >= 50]
    middle, half = interval([a[claim.measure] - b[claim.measure] for a, b in rows])
    better = middle if claim.up else -middle
    holds = "undecided" if not abs(better) > half else "yes" if better > 0 else "no"
    among = " that both edited" if claim.both else ""
    what = f"{claim.measure} of {claim.first} − {claim.second}: {middle:+.2f} ±{half:.2f}, {len(rows)} pairs{among}"
    return f"{claim.said}: {holds} ({what})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="+", metavar="WAY", help="rows to measure; all when none is given")
    parser.add_argument("--n", type=int, default=24, help="pairs")
    parser.add_argument("--quick", action="store_true", help="3 pairs in 12 steps")
    parser.add_argument("--seed", type=int, default=0, help="another lot of pairs")
    parser.add_argument("--out", type=Path, default=Path("output/editing"), help="where the CSV and the contact sheet go")
    args = parser.parse_args()
    folders = Folders(Path.cwd())
    if unknown := set(args.ways or ()) - WAYS.keys():
        parser.error(f"no such row: {', '.join(sorted(unknown))}; there are {', '.join(WAYS)}")
    chosen = args.ways or [name for name in WAYS if not (args.quick and name in TRAINING)]
    n, steps = (3, 12) if args.quick else (args.n, STEPS)
    judge, registry = Judge(), Registry.discover()
    rows = {name: Row() for name in chosen}
    cases: list[list[Tensor]] = []
    blank = torch.ones(1, 128, 128, 3)
    with Engine(registry, folders=folders) as engine:
        for i in range(n):
            seed = FIRST + 1_000_000 * args.seed + i
            pair = edit(seed, ATTRIBUTES[i % len(ATTRIBUTES)])
            shown = [x[None] for x in render([pair.before, pair.after])[0]]
            if not all(map(torch.equal, drawn(engine, Case(Graph(registry), pair, seed)), shown)):
                sys.exit(f"pair {seed}: the graph's scene is not the pair's")
            for name in chosen:
                if i % TRAINING.get(name, 1):
                    shown.append(blank)
                    continue
                picture, cost = run(engine, Case(Graph(registry), pair, seed, steps), name)
                rows[name].add(i, **measured(judge, pair, picture), **cost)
                shown.append(picture)
            cases.append(shown)
            print(f"\r{i + 1} of {n} pairs", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    show(rows)
    for claim in CLAIMS:
        if claim.first in rows and claim.second in rows:
            print(verdict(claim, rows[claim.first], rows[claim.second]))
    args.out.mkdir(parents=True, exist_ok=True)
    write(rows, args.out / "editing.csv")
    contact_sheet(["before", "truth", *chosen], cases, args.out / "editing.png")
    print(f"written: {args.out}/editing.csv, {args.out}/editing.png")


def run(engine: Engine, case: Case, name: str) -> tuple[Tensor, dict[str, float]]:
    """The picture that a way makes of a case, and what it cost. Exits with the message of a node that fails."""
    handle = WAYS[name](case)
    end = handle if hasattr(handle, "index") else handle.outputs[0]
    engine.free(results=True)
    before, most = memory()
    with counted() as asked:
        began = CLOCK()
        result = engine.run(case.g, wanted=[end.node])
        seconds = CLOCK() - began
    if result.failures:
        sys.exit(f"{name}, pair {case.seed}: {result.failures[0].message}")
    made = result.value(end.node, end.index)
    made = made[0] if isinstance(made, list) else made  # Imagic's walk makes one picture for each η
    return made.pixels[..., :3].float().cpu(), {"nfe": asked[0], "seconds": seconds, "peak": most() - before}


def drawn(engine: Engine, case: Case) -> list[Tensor]:
    """The scene and its true edit as the graph draws them."""
    ends = [case.scene.image, case.scene.target_image]
    result = engine.run(case.g, wanted=[case.scene.image.node])
    return [result.value(end.node, end.index).pixels for end in ends]


def write(rows: dict[str, Row], path: Path) -> None:
    """Means and half their 95 % interval as CSV."""
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        names = list(next(iter(rows.values())).values)
        table.writerow(["way", "n", *(f"{name}{end}" for name in names for end in ("", "_ci95"))])
        for name, row in rows.items():
            table.writerow([name, len(row.pairs), *(f"{x:.5g}" for each in names for x in interval(row.values[each]))])


def show(rows: dict[str, Row]) -> None:
    """The table, means with half their 95 % interval."""
    columns = {"structure": 1, "bg_psnr": 1, "bg_ssim": 1, "bg_mse": 2, "target": 0, "edit_error": 1, "nfe": 0, "seconds": 2, "peak": 0}
    print(f"{'way':30}{'n':>4}" + "".join(f"{name:>{WIDTH.get(name, 13)}}" for name in columns))
    for name, row in rows.items():
        cells = ""
        for column, digits in columns.items():
            middle, half = interval(row.values[column])
            cell = f"{middle:.{digits}f}" + (f" ±{half:.{digits}f}" if column not in WIDTH else "")
            cells += f"{cell:>{WIDTH.get(column, 13)}}"
        print(f"{name:30}{len(row.pairs):4}{cells}")


def contact_sheet(names: list[str], cases: list[list[Tensor]], path: Path) -> None:
    """All pictures: a line for each way, with its name, a column for each pair."""
    side, gap, left = 128, 4, 180
    sheet = Picture.new("RGB", (left + (side + gap) * len(cases), (side + gap) * len(names)), "white")
    pen = ImageDraw.Draw(sheet)
    for y, name in enumerate(names):
        pen.text((4, y * (side + gap) + side // 2 - 6), name, fill="black")
        for x, pictures in enumerate(cases):
            sheet.paste(to_pil(pictures[y])[0].convert("RGB"), (left + x * (side + gap), y * (side + gap)))
    sheet.save(path)


if __name__ == "__main__":
    main()
