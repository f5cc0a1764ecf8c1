"""How well each way of editing does on pairs whose truth is known ("mini-PIE"): `python benchmarks/editing.py --quick`.

A pair is a rendered scene and the same scene with one attribute changed; its captions, the area of the change and the true result are
known. Measured as in PIE-Bench (Ju et al. 2024), with the toybox's probe for CLIP and the toybox U-Net's keys for DINO's:

structure     1,000 x the mean squared difference of the cosine self-similarities of the middle block's keys at timestep 50, to the source
bg PSNR ...   to the source, where nothing is to change
target        how probable the probe finds the wanted value in the picture (for objects: of the object that fits best)
edit error    1,000 x the mean squared difference to the true result, where something is to change
NFE           rows that the network was asked about; seconds; peak: memory beyond what was in use before

Each with its 95 % interval (normal for means). "source" is the unedited picture, "regenerate" the target prompt on the source's noise seed.
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
from PIL import Image as Picture
from torch import Tensor

from diffusion import session
from diffusion.compare import mse, psnr, ssim
from diffusion.image import to_pil
from graph_engine import Engine, Folders, Graph, Registry
from toybox.ddim import Diffuser
from toybox.instructions import Edit, edit
from toybox.probe import Probe
from toybox.scenes import render

FIRST = 30_000_000  # seeds of scenes that nothing was trained on
ATTRIBUTES = ("color", "shape", "background_color")
STEPS, CFG = 30, 4.0
Builder = Callable[["Case"], Any]
WAYS: dict[str, Builder] = {}


@dataclass
class Case:
    """One pair as handles of a graph."""

    g: Any
    pair: Edit
    seed: int
    scene: Any = None
    model: Any = None
    clip: Any = None
    vae: Any = None
    latent: Any = None
    source: Any = None
    target: Any = None
    empty: Any = None

    def __post_init__(self) -> None:
        g, changed = self.g, self.pair.after
        new = getattr(changed.background if self.pair.attribute in ("background_color", "texture") else changed.objects[self.pair.object],
                      self.pair.attribute.removeprefix("background_"))  # fmt: skip
        self.scene = g.ToyboxScene(
            seed=self.seed, object="first" if self.pair.object == 0 else "second", change=self.pair.attribute, change_to=new
        )
        toybox = g.CheckpointLoaderSimple(ckpt_name="toybox")
        self.model, self.clip, self.vae = toybox.model, toybox.clip, toybox.vae
        self.latent = g.VAEEncode(pixels=self.scene.image, vae=self.vae)
        self.source, self.target = (g.CLIPTextEncode(text=text, clip=self.clip) for text in (self.scene.caption, self.scene.target_caption))
        self.empty = g.CLIPTextEncode(text="", clip=self.clip)

    def sampled(self, **changes: Any) -> Any:
        """KSampler with the target prompt, and what is changed of it."""
        given = {
            "model": self.model, "positive": self.target, "negative": self.empty, "latent_image": self.latent, "seed": self.seed,
            "steps": STEPS, "cfg": CFG, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
        }  # fmt: skip
        return self.g.KSampler(**given | changes)

    def decoded(self, latent: Any) -> Any:
        return self.g.VAEDecode(samples=latent, vae=self.vae)


def way(name: str) -> Callable[[Builder], Builder]:
    """Register a way of editing under the name of its row."""

    def keep(builder: Builder) -> Builder:
        WAYS[name] = builder
        return builder

    return keep


@way("source")
def source(c: Case) -> Any:
    return c.scene.image


@way("autoencoder alone")
def autoencoder(c: Case) -> Any:
    return c.decoded(c.latent)


@way("regenerate")
def regenerate(c: Case) -> Any:
    return c.decoded(c.sampled(latent_image=c.g.EmptyLatentImage(width=128, height=128, batch_size=1)))


@way("image to image 0.6")
def image_to_image(c: Case) -> Any:
    return c.decoded(c.sampled(denoise=0.6))


@way("SDEdit 0.6")
def sdedit(c: Case) -> Any:
    return c.decoded(c.g.SDEdit(model=c.model, positive=c.target, negative=c.empty, guide=c.latent, level=0.6, seed=c.seed, cfg=CFG).latent)


@way("masked, true mask")
def masked(c: Case) -> Any:
    masked = c.g.SetLatentNoiseMask(samples=c.latent, mask=c.scene.edit_mask)
    return c.g.ImageCompositeMasked(
        destination=c.scene.image, source=c.decoded(c.sampled(latent_image=masked)), x=0, y=0, resize_source=False, mask=c.scene.edit_mask
    )


def inverted(c: Case) -> tuple[Any, Any]:
    """The levels and the way into noise, without guidance, under the source's caption."""
    sigmas = c.g.BasicScheduler(model=c.model, scheduler="normal", steps=STEPS, denoise=1.0)
    return sigmas, c.g.ODEEncode(model=c.model, latent=c.latent, positive=c.source, sigmas=sigmas)


def walked_back(c: Case, model: Any, sigmas: Any, start: Any, positive: Any) -> Any:
    """DDIM from a noisy state, guided."""
    return c.g.SamplerCustom(
        model=model, add_noise=False, noise_seed=0, cfg=CFG, positive=positive, negative=c.empty,
        sampler=c.g.KSamplerSelect(sampler_name="ddim"), sigmas=sigmas, latent_image=start,
    ).output  # fmt: skip


@way("DDIM inversion, target")
def ddim(c: Case) -> Any:
    sigmas, way_up = inverted(c)
    return c.decoded(walked_back(c, c.model, sigmas, way_up.latent, c.target))


@way("DiffEdit")
def diffedit(c: Case) -> Any:
    found = c.g.NoiseContrastMask(model=c.model, samples=c.latent, target=c.target, source=c.source, seed=c.seed)
    path = c.g.DiffEditEncode(model=c.model, samples=c.latent, prompt=c.empty, steps=STEPS, scheduler="normal")
    return c.decoded(
        c.g.MaskedDDIMDecode(
            model=c.model, trajectory=path, positive=c.target, negative=c.empty, cfg=CFG, ratio=0.8, mask=found.mask
        ).latent
    )


def prompt_to_prompt(c: Case, *, path: bool, cross: float = 0.8, self_attention: float = 0.4) -> Any:
    """P2P on a real picture; with `path` the source row keeps to its way into noise (Ju et al. 2024), else it drifts with guidance."""
    sigmas, way_up = inverted(c)
    both = c.g.SourceAndTarget(samples=way_up.latent, source=c.source, target=c.target)
    aligned = c.g.AlignPrompts(positive=both.positive, mode="replace")
    given = {"trajectory": way_up.trajectory} if path else {}
    model = c.g.PromptToPrompt(model=c.model, alignment=aligned, cross_replace=cross, self_replace=self_attention, **given)
    pictures = c.decoded(walked_back(c, model, sigmas, both.latent, both.positive))
    return c.g.ImageFromBatch(image=pictures, batch_index=1, length=1)


@way("P2P, DDIM inversion")
def p2p_ddim(c: Case) -> Any:
    return prompt_to_prompt(c, path=False)


@way("P2P, direct inversion")
def p2p_direct(c: Case) -> Any:
    return prompt_to_prompt(c, path=True)


@dataclass
class Row:
    """What was measured of one way."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, **values: float) -> None:
        for name, value in values.items():
            self.values.setdefault(name, []).append(value)


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

    def target(self, picture: Tensor, pair: Edit) -> float:
        """The probability of the wanted value."""
        reading = self.probe.read(picture)[0]
        name = pair.attribute
        if name in ("background_color", "texture"):
            guess, wanted = getattr(reading, name), getattr(pair.after.background, name.removeprefix("background_"))
        else:
            found = reading.assign(pair.after)[pair.object]
            if found is None:
                return 0.0
            guess, wanted = getattr(found, name), getattr(pair.after.objects[pair.object], name)
        if guess.label == wanted:
            return guess.probability
        return 0.0


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
    if pair.attribute not in ("background_color", "texture"):
        changed = masks[:, pair.object].amax(0, keepdim=True)
    edited = (torch.nn.functional.max_pool2d(changed[:, None], 5, 1, 2)[:, 0] > 0.05).float()
    kept = 1 - edited
    return {
        "structure": 1000 * (judge.keys(picture) - judge.keys(before)).square().mean().item(),
        "bg_psnr": min(psnr(picture, before, kept), 80.0),
        "bg_ssim": 100 * ssim(picture, before, kept),
        "bg_mse": 1000 * mse(picture, before, kept),
        "target": 100 * judge.target(picture, pair),
        "edit_error": 1000 * mse(picture, after, edited),
    }


def interval(values: list[float]) -> tuple[float, float]:
    """The mean of what is a number, and half its 95 % interval."""
    kept = [value for value in values if value == value]
    if not kept:
        return float("nan"), float("nan")
    return fmean(kept), (1.96 * stdev(kept) / len(kept) ** 0.5 if len(kept) > 1 else float("nan"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ways", nargs="*", help="rows to measure; all when none is given")
    parser.add_argument("--n", type=int, default=48, help="pairs")
    parser.add_argument("--quick", action="store_true", help="6 pairs")
    parser.add_argument("--seed", type=int, default=0, help="another lot of pairs")
    parser.add_argument("--out", type=Path, default=Path("output/editing"), help="where the CSV and the contact sheet go")
    args = parser.parse_args()
    if unknown := set(args.ways) - WAYS.keys():
        parser.error(f"no such row: {', '.join(sorted(unknown))}; there are {', '.join(WAYS)}")
    chosen = args.ways or list(WAYS)
    n = 6 if args.quick else args.n
    judge, registry = Judge(), Registry.discover()
    rows = {name: Row() for name in chosen}
    sheet: list[list[Tensor]] = []
    with Engine(registry, folders=Folders(Path.cwd())) as engine:
        for i in range(n):
            seed = FIRST + 1_000_000 * args.seed + i
            pair = edit(seed, ATTRIBUTES[i % len(ATTRIBUTES)])
            line = [x[None] for x in render([pair.before, pair.after])[0]]
            for name in chosen:
                graph = Graph(registry)
                handle = WAYS[name](Case(graph, pair, seed))
                end = handle if hasattr(handle, "index") else handle.outputs[0]
                engine.free(results=True)
                before, most = memory()
                with counted() as asked:
                    began = time.perf_counter()
                    result = engine.run(graph, wanted=[end.node])
                    seconds = time.perf_counter() - began
                if result.failures:
                    sys.exit(f"{name}, pair {seed}: {result.failures[0].message}")
                picture = result.value(end.node, end.index).pixels[..., :3].float().cpu()
                rows[name].add(**measured(judge, pair, picture), nfe=asked[0], seconds=seconds, peak=most() - before)
                line.append(picture)
            sheet.append(line)
            print(f"\r{i + 1} of {n} pairs", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    show(rows, n)
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / "editing.csv").open("w", newline="") as file:
        table = csv.writer(file)
        names = list(next(iter(rows.values())).values)
        table.writerow(["way", "n", *(f"{name}{end}" for name in names for end in ("", "_ci95"))])
        for name, row in rows.items():
            table.writerow([name, n, *(f"{x:.5g}" for each in names for x in interval(row.values[each]))])
    contact_sheet(sheet, args.out / "editing.png")
    print(f"written: {args.out}/editing.csv, {args.out}/editing.png (a line a pair: source, truth, {', '.join(chosen)})")


def show(rows: dict[str, Row], n: int) -> None:
    """The table, means with half their 95 % interval."""
    columns = {"structure": 1, "bg_psnr": 1, "bg_ssim": 1, "bg_mse": 2, "target": 0, "edit_error": 1, "nfe": 0, "seconds": 2, "peak": 0}
    print(f"{'n = ' + str(n):24}" + "".join(f"{name:>15}" for name in columns))
    for name, row in rows.items():
        cells = []
        for column, digits in columns.items():
            middle, half = interval(row.values[column])
            cells.append(f"{middle:.{digits}f}" + (f" ±{half:.{digits}f}" if column not in ("nfe", "seconds", "peak") else ""))
        print(f"{name:24}" + "".join(f"{cell:>15}" for cell in cells))


def contact_sheet(lines: list[list[Tensor]], path: Path) -> None:
    """All pictures, a line a pair."""
    side, gap = 128, 4
    sheet = Picture.new("RGB", ((side + gap) * len(lines[0]), (side + gap) * len(lines)), "white")
    for y, line in enumerate(lines):
        for x, pixels in enumerate(line):
            sheet.paste(to_pil(pixels)[0].convert("RGB"), (x * (side + gap), y * (side + gap)))
    sheet.save(path)


if __name__ == "__main__":
    main()
