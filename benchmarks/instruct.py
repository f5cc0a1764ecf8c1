"""What the embedded InstructPix2Pix variant makes of instructions that it was not trained on: `python benchmarks/instruct.py`.

Scenes with seeds from 40,000,000 on, `--n` edits of each kind, dpmpp_2m karras 12 steps, noise seed 1. `read` is the share of edits whose
new value the probe reads, `probability` what it gives that value; the error is that to the true edit where it differs from the scene, the
ground that to the scene, 8 pixels away from there. ± is half the 95 % interval of a mean. First all kinds at a scale of 3 for the words and
of 1.5 for the picture, then colours and shapes of one object together at all scales.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from editing import achieved, interval
from torch import Tensor

import toybox
from diffusion.compare import mse, psnr
from diffusion.loading import open_checkpoint, open_unet
from diffusion.memory import open_device
from diffusion.sample import sample
from diffusion.spacing import sigmas_for
from diffusion.text import encode as told
from diffusion.vae import decode, encode
from diffusion.values import Conditioning, Guider, Image, Latent, Noise, Sampler, Sigmas
from nodes.instruct_pix2pix import two_guidances
from toybox.instructions import Edit, edit
from toybox.probe import Probe
from toybox.scenes import render

FIRST, BATCH = 40_000_000, 25
KINDS: dict[str, tuple[str, int | None]] = {  # attribute, number of objects
    "color, one object": ("color", 1),
    "shape, one object": ("shape", 1),
    "color, one of two": ("color", 2),
    "shape, one of two": ("shape", 2),
    "background_color": ("background_color", None),
}
SCALES = ((3.0, 1.0), (3.0, 1.5), (3.0, 2.5), (1.0, 1.5), (7.5, 1.5))
Figures = dict[str, float]


class Bench:
    """The model and its judge."""

    def __init__(self, device: str, weights: Path) -> None:
        self.device, self.probe = open_device(device), Probe.load()
        _, self.clip, self.vae = open_checkpoint(toybox.WEIGHTS)
        self.model = open_unet(weights)
        self.sigmas = Sigmas(sigmas_for(self.model.process.table(), "karras", 12))

    def edited(self, pairs: list[Edit], pictures: Tensor, text_scale: float, image_scale: float) -> Tensor:
        """The pictures as the network changes them, in one batch."""
        (entry, *_) = told(self.clip, "", self.device)
        words = torch.cat([told(self.clip, pair.text, self.device).entries[0].embeds for pair in pairs])
        shown = encode(self.vae, Image(pictures), self.device).x
        asked = Conditioning((replace(entry, embeds=words, tokens=()),))
        guidance = two_guidances(asked, Conditioning((entry,)), shown, text_scale, image_scale)
        latent = Latent(torch.zeros_like(shown))
        out, _ = sample(Guider(self.model, guidance), Noise(1), Sampler.of("dpmpp_2m"), self.sigmas, latent, self.device)
        return decode(self.vae, out, self.device).pixels.cpu()

    def judged(self, pair: Edit, before: Tensor, after: Tensor, made: Tensor) -> Figures:
        """One picture [h, w, 3] beside the scene and its true edit."""
        probability = achieved(self.probe.read(made[None])[0], pair)
        changed = (before != after).any(-1)[None].float()
        away = 1 - F.max_pool2d(changed[:, None], 17, 1, 8)[:, 0]
        return {
            "read": float(probability > 0),
            "probability": probability,
            "error": mse(made[None], after[None], changed),
            "ground": psnr(made[None], before[None], away) if away.any() else float("nan"),
        }

    def measured(self, kinds: list[str], n: int, text_scale: float, image_scale: float) -> list[Figures]:
        """The figures of n edits of each kind."""
        pairs = [edit(FIRST + i, *KINDS[kind]) for kind in kinds for i in range(n)]
        figures = []
        for start in range(0, len(pairs), BATCH):
            some = pairs[start : start + BATCH]
            before, after = (render([getattr(pair, side) for pair in some])[0] for side in ("before", "after"))
            made = self.edited(some, before, text_scale, image_scale)
            figures += [self.judged(*row) for row in zip(some, before, after, made, strict=True)]
        return figures


def row(name: str, figures: list[Figures]) -> str:
    """A line of the table."""
    cells = ""
    for measure, digits in {"read": 2, "probability": 3, "error": 3, "ground": 1}.items():
        middle, half = interval([each[measure] for each in figures])
        cell = f"{middle:.{digits}f} ±{half:.{digits}f}"
        cells += f"{cell:>17}"
    return f"{name:22}{len(figures):5}{cells}"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=50, help="edits of a kind")
    parser.add_argument("--kinds-only", action="store_true", help="without the table of scales")
    parser.add_argument("--weights", type=Path, default=toybox.WEIGHTS / "instruct")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    bench = Bench(args.device, args.weights)
    print(f"{'edit':22}{'n':>5}{'read':>17}{'probability':>17}{'error inside':>17}{'ground, dB':>17}")
    for kind in KINDS:
        print(row(kind, bench.measured([kind], args.n, 3.0, 1.5)), flush=True)
    if args.kinds_only:
        return
    for scales in SCALES:
        name = "words {:g}, picture {:g}".format(*scales)
        print(row(name, bench.measured(["color, one object", "shape, one object"], args.n, *scales)), flush=True)


if __name__ == "__main__":
    main()
