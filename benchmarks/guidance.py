"""What the ways of guiding do to generated toybox pictures, as the probe reads them.

    python benchmarks/guidance.py [--parts PART ...]

`prompt`: of pictures under captions of two objects, without guidance, the share with just these shapes and colours. `nothing`: how sure the
probe is of the shapes in pictures under no prompt. `strong`: as `prompt`, at a guidance of 15. `negative`: how sure it is that a circle
is one where a square is the negative prompt. All with dpmpp_2m karras in 15 steps; ± is the 95 % interval of the mean, over captions where
there are some.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from statistics import mean, stdev

import toybox
from diffusion.loading import open_checkpoint
from diffusion.memory import TorchDevice
from diffusion.text import encode
from diffusion.vae import decode
from diffusion.values import Model
from graph_engine.context import Context
from nodes.latent import EmptyLatentImage
from nodes.perp_neg import PerpNeg
from nodes.perturbed_attention import PerturbedAttentionGuidance
from nodes.rescale_cfg import RescaleCFG
from nodes.sample import KSampler
from nodes.self_attention_guidance import SelfAttentionGuidance
from toybox.captions import caption
from toybox.probe import Probe
from toybox.reading import Reading
from toybox.scenes import Scene, sample

FIRST = 52_000_000  # seeds of scenes that nothing was trained on
CAPTIONS, EACH = 12, 8
ROUNDS, BATCH = 3, 32


class Bench:
    """The embedded model, and the models that are guided in other ways."""

    def __init__(self) -> None:
        self.device = TorchDevice("cpu")
        self.ctx = Context.silent(self.device)
        self.model, self.clip, self.vae = open_checkpoint(toybox.WEIGHTS)
        self.probe = Probe.load()

    def quality(self) -> dict[str, Model]:
        """Plain, and led away from a worse picture."""
        blurred = SelfAttentionGuidance(model=self.model, scale=0.75).run(self.ctx)
        perturbed = {f"PAG {s:g}": PerturbedAttentionGuidance(model=self.model, scale=s).run(self.ctx) for s in (1.5, 3.0)}
        return {"plain": self.model, "SAG 0.75": blurred, **perturbed}

    def read(self, model: Model, text: str, seed: int, count: int, cfg: float = 1.0, negative: str = "") -> list[Reading]:
        """What the probe sees in pictures of a prompt."""
        positive, against = (encode(self.clip, each, self.device) for each in (text, negative))
        canvas = EmptyLatentImage(width=128, height=128, batch_size=count).run(self.ctx)
        sampler = KSampler(
            model=model, positive=positive, negative=against, latent_image=canvas, seed=seed, steps=15, cfg=cfg,
            sampler_name="dpmpp_2m", scheduler="karras",
        )  # fmt: skip
        return self.probe.read(decode(self.vae, sampler.run(self.ctx), self.device).pixels.clamp(0, 1))

    def followed(self, ways: Mapping[str, Model], cfg: float) -> None:
        """The share of pictures with the objects of their captions, and no other."""
        shares: dict[str, list[float]] = {name: [] for name in ways}
        for i in range(CAPTIONS):
            scene = sample(FIRST + i, 2)
            text = caption(scene, form="listed").text
            for name, model in ways.items():
                seen = self.read(model, text, 100 + i, EACH, cfg)
                shares[name].append(mean(objects(reading) == objects(scene) for reading in seen))
        for name, values in shares.items():
            more = [a - b for a, b in zip(values, shares[next(iter(ways))], strict=True)]
            print(f"  {name:10} {interval(values)}, against the first {interval(more)}", flush=True)

    def prompt(self) -> None:
        print(f"prompt: {CAPTIONS} captions, {EACH} pictures each, no guidance")
        self.followed(self.quality(), 1.0)

    def strong(self) -> None:
        print(f"strong: {CAPTIONS} captions, {EACH} pictures each, guidance 15")
        self.followed({"plain": self.model, "rescaled": RescaleCFG(model=self.model, multiplier=0.7).run(self.ctx)}, 15.0)

    def nothing(self) -> None:
        print(f"nothing: {ROUNDS * BATCH} pictures, no prompt")
        for name, model in self.quality().items():
            sure = [certainty(reading) for n in range(ROUNDS) for reading in self.read(model, "", 200 + n, BATCH)]
            print(f"  {name:10} {interval(sure)}", flush=True)

    def negative(self) -> None:
        print(f"negative: {BATCH} pictures of a circle, guidance 8")
        perpendicular = PerpNeg(model=self.model, empty_conditioning=encode(self.clip, "", self.device), neg_scale=1.0).run(self.ctx)
        for name, model, against in (
            ("none", self.model, ""),
            ("plain", self.model, "a blue square"),
            ("Perp-Neg", perpendicular, "a blue square"),
        ):
            seen = self.read(model, "a large blue circle on a yellow background", 3, BATCH, 8.0, against)
            circle = [obj.shape.probability * (obj.shape.label == "circle") for reading in seen for obj in reading.objects]
            print(f"  {name:10} {interval(circle)} of {len(circle)} objects", flush=True)


def objects(picture: Reading | Scene) -> list[tuple[str, str]]:
    """Shape and color of each object, in order."""
    return sorted((getattr(o.shape, "label", o.shape), getattr(o.color, "label", o.color)) for o in picture.objects)


def certainty(reading: Reading) -> float:
    """The mean probability of the shapes that were read, 0 if nothing was."""
    return mean(obj.shape.probability for obj in reading.objects) if reading.objects else 0.0


def interval(values: list[float]) -> str:
    return f"{mean(values):6.3f} ± {1.96 * stdev(values) / math.sqrt(len(values)):5.3f}"


PARTS = {"prompt": Bench.prompt, "nothing": Bench.nothing, "strong": Bench.strong, "negative": Bench.negative}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS)
    told = parser.parse_args()
    bench = Bench()
    for part in told.parts:
        PARTS[part](bench)


if __name__ == "__main__":
    main()
