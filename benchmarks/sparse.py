"""How much faster sparse inference (SIGE) is than dense, end to end, on networks of Stable Diffusion 1's shape with random weights.

A recorded run, then for each edited area dense and sparse runs of the same edit in turn, and the median of the paired ratios. Times are of
`diffusion.sample.sample` and of a decoding as a whole; recording is not in them and is reported beside them. Masks are squares, and for
"scattered" nine small squares of the same area together. The error is that of the last latent against the dense run's, in its peak.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from diffusion.compare import decibels
from diffusion.guidance import Conditional
from diffusion.loading import open_unet, open_vae
from diffusion.memory import TorchDevice, open_device
from diffusion.sample import sample
from diffusion.sparse import decode as sparse_vae
from diffusion.sparse.cache import ActivationCache
from diffusion.sparse.edit import Plan, Sparse
from diffusion.sparse.record import Record
from diffusion.vae import decode
from diffusion.values import VAE, Cond, Conditioning, Guider, Latent, Model, Noise, Sampler, Sigmas

AREAS = (0.01, 0.05, 0.15, 0.40)
MAKER = Path(__file__).parents[1] / "tests" / "tools" / "make_checkpoint.py"
QUICK_WIDTHS = (128, 256, 256, 256)
RUN = 20  # steps of an edit, for which the sums are told

Pairs = list[tuple[float, float]]  # seconds, dense and sparse, of each round


def maker() -> ModuleType:
    """The tool that makes random checkpoints."""
    spec = importlib.util.spec_from_file_location("make_checkpoint", MAKER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_checkpoint"] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


def networks(folder: Path, quick: bool, dtype: str | None) -> tuple[Model, VAE]:
    """A U-Net and a VAE with random weights."""
    tool = maker()
    net = tool.Net(QUICK_WIDTHS if quick else (320, 640, 1280, 1280), 1 if quick else 2, (1, 1, 1, 0), 1, 768, linear=False)
    parts = {"unet": tool.unet("model.diffusion_model.", net), "vae": tool.vae("", 32 if quick else 128, 1 if quick else 2)}
    generator = torch.Generator().manual_seed(0)
    for name, shapes in parts.items():
        tensors = {key: tool._draw(key, shape, generator).half() for key, shape in shapes}
        save_file(tensors, folder / f"{name}.safetensors")
    return open_unet(folder / "unet.safetensors", dtype), open_vae(folder / "vae.safetensors")


def square(side: int, area: float, scattered: bool) -> Tensor:
    """A mask [side, side] of about this area: a square off the centre, or nine of a third of its side."""
    mask = torch.zeros(side, side, dtype=torch.bool)
    whole = side * math.sqrt(area)
    if not scattered:
        edge = round(whole)
        start = (side - edge) // 3
        mask[start : start + edge, start : start + edge] = True
        return mask
    edge, step = max(1, round(whole / 3)), side // 3
    for i in range(3):
        for j in range(3):
            mask[i * step + step // 3 :, j * step + step // 3 :][:edge, :edge] = True
    return mask


def timed(run: Callable[[], Any], device: TorchDevice) -> tuple[float, Any]:
    """Seconds and result: of this process's own time on one thread of the CPU, so that other programs count less, else of the clock."""
    alone = device.torch.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    if device.torch.type == "cuda":
        torch.cuda.synchronize()
    start = clock()
    out = run()
    if device.torch.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start, out


def row(name: str, seconds: Pairs, region: str, note: str) -> str:
    """A line of the table."""
    ratios = [d / s for d, s in seconds]
    dense, sparse = (statistics.median(side) for side in zip(*seconds, strict=True))
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    return f"{name:24} {region:>19} {dense:9.3f} {sparse:9.3f} {statistics.median(ratios):6.2f}× ({spread})  {note}"


def covered(plan: Plan, side: int) -> str:
    """What a plan computes of a latent, and which share of it that is."""
    region = plan.region((side, side))
    kind = "dense" if plan.dense else f"{len(region)} × {region.height}×{region.width}"
    return f"{kind} {region.share:6.1%}"


class Bench:
    """Everything that the cases share."""

    def __init__(self, given: argparse.Namespace, folder: Path) -> None:
        self.given = given
        self.device = open_device(given.device)
        self.model, self.vae = networks(folder, given.quick, "float32" if self.device.torch.type == "cpu" else None)
        self.side, self.steps = given.side, given.steps
        generator = torch.Generator().manual_seed(1)
        self.x, self.stroke = (torch.randn(1, 4, self.side, self.side, generator=generator) for _ in range(2))
        text = torch.randn(1, 77, 768, generator=generator)
        self.guidance = Conditional(Conditioning((Cond(text),)))
        table = self.model.process.table()
        ts = torch.linspace(600, 60, self.steps)
        self.sigmas = Sigmas(torch.cat([table.sigmas_at(ts).float(), torch.zeros(1)]))

    def run(self, model: Model, x: Tensor, inspect: Any = None) -> Tensor:
        """The last latent of a run."""
        guider = Guider(model, self.guidance)
        out, _ = sample(guider, Noise(0), Sampler.of("euler"), self.sigmas, Latent(x), self.device, inspect=inspect)
        return out.x

    def record(self) -> ActivationCache:
        """The original's activations."""
        kept: list[ActivationCache] = []
        patch = Record(self.given.budget << 20, dtype=torch.float16 if self.given.half else None)
        patched = replace(self.model, patches=(patch,))
        seconds, _ = timed(lambda: self.run(patched, self.x, lambda net: kept.append(net.state(patch).cache())), self.device)
        plain, _ = timed(lambda: self.run(self.model, self.x), self.device)
        print(
            f"recorded {self.steps} steps, {kept[0].nbytes / 2**20:.0f} MiB, {kept[0].nbytes / self.steps / 2**20:.0f} a step; "
            f"recording took {seconds / plain:.2f} of a plain run\n"
        )
        return kept[0]

    def edited(self, area: float, scattered: bool) -> tuple[Tensor, Tensor]:
        """A mask, and the latent painted over there."""
        mask = square(self.side, area, scattered)
        return mask, torch.where(mask, self.stroke, self.x)

    def unet(self, cache: ActivationCache, area: float, mode: str, scattered: bool) -> Pairs:
        """One line: sampling."""
        mask, x = self.edited(area, scattered)
        plan = Plan(mask, mode, dense_above=self.given.dense_above)  # type: ignore[arg-type]
        sparse_model = replace(self.model, patches=(Sparse(cache, plan),))
        seconds, worst = Pairs(), 0.0
        for _ in range(self.given.rounds):
            d, want = timed(lambda: self.run(self.model, x), self.device)
            s, got = timed(lambda: self.run(sparse_model, x), self.device)
            seconds.append((d, s))
            peak = (want.amax() - want.amin()).item()
            worst = max(worst, ((got - want) / peak).double().square().mean().item())
        done, whole = plan.work(cache.frames[0])
        name = f"{area:.0%} {'scattered' if scattered else 'compact'}, {mode}"
        print(row(name, seconds, covered(plan, self.side), f"work 1/{whole / done:.1f}, {decibels(worst):.1f} dB"), flush=True)
        return seconds

    def decoder(self, area: float) -> Pairs:
        """One line: decoding."""
        _, x = self.edited(area, False)
        _, cache = sparse_vae.record(self.vae, Latent(self.x), self.device, self.given.budget << 20)
        plan = Plan(sparse_vae.changed(cache, Latent(x), 0.0, self.given.dilate), grow=0, dense_above=self.given.dense_above)
        seconds, worst = Pairs(), 0.0
        for _ in range(self.given.rounds):
            d, want = timed(lambda: decode(self.vae, Latent(x), self.device), self.device)
            s, got = timed(lambda: sparse_vae.decode(self.vae, Latent(x), cache, plan, self.device), self.device)
            seconds.append((d, s))
            worst = max(worst, (got.pixels - want.pixels).double().square().mean().item())
        print(row(f"VAE, {area:.0%} compact", seconds, covered(plan, self.side), f"{decibels(worst):.1f} dB"), flush=True)
        return seconds


def options(parser: argparse.ArgumentParser) -> None:
    """What can be set."""
    parser.add_argument("--quick", action="store_true", help="narrower networks, 32 × 32 cells")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--side", type=int, help="latent cells a side (default 64, quick 32)")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--budget", type=int, default=12 << 10, help="MiB for the activations")
    parser.add_argument("--half", action="store_true", help="keep activations in half precision")
    parser.add_argument("--dense-above", type=float, default=0.6)
    parser.add_argument("--dilate", type=int, default=3, help="cells, for decoding")
    parser.add_argument("--areas", type=float, nargs="*", default=AREAS)


def measure(given: argparse.Namespace, only: str | None = None) -> None:
    """Print the table, or one part of it: "unet", "scattered" or "vae"."""
    given.side = given.side or (32 if given.quick else 64)
    sampled, decoded = dict[float, Pairs](), dict[float, Pairs]()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(given, Path(folder))
        print(
            f"{bench.device.name}, {torch.get_num_threads()} threads, {given.side} × {given.side} cells, {given.steps} steps, "
            f"medians of {given.rounds} rounds"
        )
        print(f"{'edit':24} {'region and share':>19} {'dense s':>9} {'sparse s':>9}  ratio")
        if only != "vae":
            cache = bench.record()
            for scattered in (False, True):
                if only in (None, "scattered" if scattered else "unet"):
                    for area in given.areas:
                        seconds = bench.unet(cache, area, "auto" if scattered else "window", scattered)
                        if not scattered:
                            sampled[area] = seconds
        if only in (None, "vae"):
            for area in given.areas:
                decoded[area] = bench.decoder(area)
    for area in sorted(sampled.keys() & decoded.keys()):
        times = RUN / given.steps
        whole = [(times * a + c, times * b + d) for (a, b), (c, d) in zip(sampled[area], decoded[area], strict=True)]
        print(row(f"{RUN} steps and decoding", whole, f"{area:.0%}", "reckoned from the lines above"))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options(parser)
    parser.add_argument("--only", choices=["unet", "scattered", "vae"])
    given = parser.parse_args()
    measure(given, given.only)


if __name__ == "__main__":
    main()
