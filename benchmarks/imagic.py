"""What Imagic's stages reach on rendered toybox scenes with one attribute changed: losses, the picture again, and the sweep of η.

    python benchmarks/imagic.py [--scenes 4] [--steps 60]

A: the loss on noises that were not trained on, before and after the embedding is optimised. B: the picture sampled from noise at η = 0,
against the scene, with the given model and with the tuned one (PSNR in dB). C: for each η how probable the probe finds the wanted value
of the attribute, and the PSNR to the scene outside of the change. One noise seed a scene; ± is the 95 % interval of the mean.
"""

from __future__ import annotations

import argparse
import math
from statistics import mean, stdev

import torch
from torch import Tensor

import toybox
from diffusion.compare import psnr
from diffusion.family import family
from diffusion.guidance import Conditional
from diffusion.loading import open_checkpoint
from diffusion.memory import TorchDevice
from diffusion.session import open_session
from diffusion.text import encode
from diffusion.training import noise_loss
from diffusion.vae import decode
from diffusion.vae import encode as vae_encode
from diffusion.values import Conditioning, Image, Latent, Model
from graph_engine.context import Context
from nodes.imagic import FinetuneOnImage, InterpolateEmbeddings, OptimizeEmbedding
from nodes.sample import KSampler
from toybox.captions import caption
from toybox.instructions import edit
from toybox.probe import LABELS, Probe
from toybox.scenes import render

FIRST = 31_000_000  # seeds of scenes that nothing was trained on
ETAS = (0.0, 0.3, 0.6, 0.9, 1.2, 1.5)
WALK = {"steps": 20, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
HELD_OUT = 16  # pairs of noise and level that a loss is taken over


class Bench:
    """The embedded model, and what is asked of it."""

    def __init__(self, steps: int) -> None:
        self.device = TorchDevice("cuda" if torch.cuda.is_available() else "cpu")
        self.ctx, self.steps, self.probe = Context.silent(self.device), steps, Probe.load()
        self.model, self.clip, self.vae = open_checkpoint(toybox.WEIGHTS)
        self.nothing = self.told("")

    def told(self, text: str) -> Conditioning:
        return encode(self.clip, text, self.device)

    def sampled(self, model: Model, positive: Conditioning, seed: int) -> Tensor:
        canvas = Latent(torch.zeros(1, 4, 16, 16))
        node = KSampler(model=model, positive=positive, negative=self.nothing, latent_image=canvas, seed=seed, **WALK)
        return decode(self.vae, node.run(self.ctx), self.device).pixels.cpu()

    def loss(self, told: Conditioning, latent: Latent) -> float:
        x0 = latent.x.to(self.device.torch) * family(self.model.weights.family).latent.scale
        with open_session(self.model, Conditional(told), self.device, shape=x0.shape) as net, torch.no_grad():
            return noise_loss(net, told, x0, HELD_OUT, torch.Generator().manual_seed(99)).item()

    def scene(self, i: int) -> dict[str, float]:
        """All figures of one scene."""
        pair = edit(FIRST + i, attribute=("color", "shape")[i % 2])
        before, after = render([pair.before, pair.after])[0].split(1)
        same = ((before - after).abs().amax(-1) <= 0.02).float()
        latent, target = vae_encode(self.vae, Image(before), self.device), self.told(caption(pair.after).text)
        how = {"model": self.model, "latent": latent, "steps": self.steps}
        found = OptimizeEmbedding(**how, conditioning=target, learning_rate=0.003).run(self.ctx).conditioning
        tuned = FinetuneOnImage(**how, conditioning=found, learning_rate=0.002).run(self.ctx).model
        figures = {"loss before A": self.loss(target, latent), "loss after A": self.loss(found, latent)}
        figures["given model at 0, dB"] = psnr(self.sampled(self.model, found, i), before)
        sweep = InterpolateEmbeddings(target=target, optimised=found, first=ETAS[0], last=ETAS[-1], count=len(ETAS)).run(self.ctx)
        wanted = LABELS[pair.attribute].index(getattr(pair.after.objects[0], pair.attribute))
        for eta, told in zip(ETAS, sweep, strict=True):
            picture = self.sampled(tuned, told, i)
            if eta == 0:
                figures["tuned model at 0, dB"] = psnr(picture, before)
            figures[f"target at {eta:g}"] = self.probe.probabilities(picture)[pair.attribute][0, :, wanted].max().item()
            figures[f"ground at {eta:g}, dB"] = psnr(picture, before, same)
        return figures


def interval(values: list[float]) -> str:
    half = 1.96 * stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{mean(values):8.3f} ± {half:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scenes", type=int, default=4)
    parser.add_argument("--steps", type=int, default=60)
    told = parser.parse_args()
    bench = Bench(told.steps)
    rows = []
    for i in range(told.scenes):
        rows.append(bench.scene(i))
        print(f"scene {i}: " + ", ".join(f"{name} {value:.3f}" for name, value in rows[-1].items()), flush=True)
    print(f"{told.scenes} scenes, {told.steps} + {told.steps} training steps")
    for name in rows[0]:
        print(f"{name:22} {interval([row[name] for row in rows])}")


if __name__ == "__main__":
    main()
