"""Word swaps on generated toybox scenes: Prompt-to-Prompt, with and without local blend, against regeneration from the same seed.

    python benchmarks/prompt_to_prompt.py [--scenes 16] [--steps 20]
    python benchmarks/prompt_to_prompt.py --real [--scenes 16] [--steps 25]

Source and target are sampled side by side from one noise, under captions that do not say where the object is. Judged are the overlap of
source and edited object (segmented by colour), PSNR against the source outside of both, and whether the probe reads the new attribute.

With --real, rendered scenes are walked up the ODE under their captions, one attribute is changed, and the edit is compared with the
rendered truth: PSNR outside and inside of what changes, beside regeneration from a seed, the way back without control, and the VAE alone.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import mean, stdev

import torch
import torch.nn.functional as F
from torch import Tensor

import toybox
from diffusion.compare import psnr
from diffusion.guidance import CFG
from diffusion.loading import open_checkpoint
from diffusion.memory import TorchDevice
from diffusion.pair import stacked
from diffusion.sample import sample
from diffusion.spacing import sigmas_for
from diffusion.text import encode
from diffusion.vae import decode
from diffusion.vae import encode as vae_encode
from diffusion.values import Guider, Latent, Model, Noise, Sampler, Sigmas
from graph_engine.context import Context
from nodes.ddib import ODEEncode
from nodes.local_blend import LocalBlend
from nodes.prompt_to_prompt import AlignPrompts, PromptToPrompt
from nodes.source_and_target import SourceAndTarget
from nodes.toybox import ToyboxScene
from toybox.probe import Probe
from toybox.scenes import COLORS, SHAPES, TEXTURES

METHODS = ("regenerate", "p2p", "p2p + blend")
MARGIN = 4  # pixels around the objects that are not counted as ground


@dataclass(frozen=True, slots=True)
class Swap:
    """Two captions that differ in one word, and what the second should show."""

    attribute: str
    source: str
    target: str
    color: tuple[str, str]
    shape: tuple[str, str]
    ground: str

    @property
    def wanted(self) -> str:
        """The new value of the attribute."""
        return (self.color if self.attribute == "color" else self.shape)[1]


def swaps(n: int, attribute: str, seed: int = 0) -> Iterator[Swap]:
    """n swaps of a color or shape."""
    lot = random.Random(f"p2p {attribute} {seed}")
    for _ in range(n):
        color, other, ground = lot.sample([c for c in COLORS if c not in ("white", "black")], 3)
        shape, another = lot.sample(list(SHAPES), 2)
        texture = lot.choice(list(TEXTURES))
        colors, shapes = ((color, other), (shape, shape)) if attribute == "color" else ((color, color), (shape, another))
        texts = [f"a {c} {s} on a {ground} {texture} background" for c, s in zip(colors, shapes, strict=True)]
        yield Swap(attribute, texts[0], texts[1], colors, shapes, ground)


def object_mask(pixels: Tensor, color: str, ground: str) -> Tensor:
    """Which pixels [h, w] of a picture [h, w, 3] look more like the object's color than like the ground's or a darker or lighter one."""
    of, others = _rgb(color), torch.stack([_rgb(ground) * s + o for s, o in ((1.0, 0.0), (0.7, 0.0), (0.7, 0.3))])
    return (pixels - of).norm(dim=-1) < (pixels[..., None, :] - others).norm(dim=-1).amin(-1)


def _rgb(name: str) -> Tensor:
    value = torch.as_tensor(COLORS[name], dtype=torch.float32)
    return value / 255 if value.max() > 1 else value


def changed(model: Model, method: str, swap: Swap, positive: object, ctx: Context, cross: float, self_replace: float) -> Model:
    """The model with a method at work."""
    if method == "regenerate":
        return model
    alignment = AlignPrompts(positive=positive, mode="replace").run(ctx)
    model = PromptToPrompt(model=model, alignment=alignment, cross_replace=cross, self_replace=self_replace).run(ctx)
    if method == "p2p":
        return model
    return LocalBlend(model=model, alignment=alignment, source_words=swap.shape[0], target_words=swap.shape[1]).run(ctx)


def measured(n: int, steps: int, shares: dict[str, tuple[float, float]]) -> dict[tuple[str, str], list[tuple[float, float, float, bool]]]:
    """(iou, background PSNR, share of the picture the source's object takes, success) of every swap, by attribute and method."""
    device = TorchDevice("cpu")
    ctx, probe = Context.silent(device), Probe.load()
    model, clip, vae = open_checkpoint(toybox.WEIGHTS)
    sigmas = Sigmas(sigmas_for(model.process.table(), "karras", steps, 1.0, "dpmpp_2m"))
    empty = encode(clip, "", device)
    found: dict[tuple[str, str], list[tuple[float, float, float, bool]]] = {}
    for attribute in shares:
        for seed, swap in enumerate(swaps(n, attribute)):
            positive = stacked(encode(clip, swap.source, device), encode(clip, swap.target, device))
            for method in METHODS:
                patched = changed(model, method, swap, positive, ctx, *shares[attribute])
                latent = Latent(torch.zeros(2, 4, 16, 16), batch_index=(0, 0))
                guider = Guider(patched, CFG(positive, empty, 3.0))
                out = sample(guider, Noise(seed), Sampler.of("dpmpp_2m"), sigmas, latent, device)[0]
                pixels = decode(vae, out, device).pixels
                masks = [object_mask(p, c, swap.ground) for p, c in zip(pixels, swap.color, strict=True)]
                either = F.max_pool2d((masks[0] | masks[1])[None].float(), 2 * MARGIN + 1, 1, MARGIN)
                iou = ((masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum().clamp(min=1)).item()
                with torch.no_grad():
                    objects = probe.read(pixels[1:])[0].objects
                success = len(objects) == 1 and getattr(objects[0], attribute).label == swap.wanted
                quality = psnr(pixels[:1], pixels[1:], 1 - either)
                found.setdefault((attribute, method), []).append((iou, quality, masks[0].float().mean().item(), success))
    return found


def on_real(n: int, steps: int) -> dict[tuple[str, str], list[tuple[float, float, float, bool]]]:
    """(PSNR outside, PSNR inside, 0, success) against the rendered truth of edits of rendered scenes."""
    device = TorchDevice("cpu")
    ctx, probe = Context.silent(device), Probe.load()
    model, clip, vae = open_checkpoint(toybox.WEIGHTS)
    sigmas = Sigmas(sigmas_for(model.process.table(), "normal", steps, 1.0, "ddim"))
    empty = encode(clip, "", device)
    found: dict[tuple[str, str], list[tuple[float, float, float, bool]]] = {}
    for attribute in ("color", "shape"):
        for seed in range(n):
            scene = ToyboxScene(seed=seed, objects="one", style="flat", change=attribute).run(ctx)
            source, target = encode(clip, scene.caption, device), encode(clip, scene.target_caption, device)
            clean = vae_encode(vae, scene.image, device)
            up = ODEEncode(model=model, latent=clean, positive=source, sigmas=sigmas).run(ctx)
            both = SourceAndTarget(samples=up.latent, source=source, target=target).run(ctx)
            alignment = AlignPrompts(positive=both.positive, mode="refine").run(ctx)
            p2p = PromptToPrompt(model=model, alignment=alignment, trajectory=up.trajectory).run(ctx)
            nouns = {"source_words": _nouns(scene.caption), "target_words": _nouns(scene.target_caption)}
            blend = LocalBlend(model=p2p, alignment=alignment, **nouns).run(ctx)
            edits = {"VAE of the truth": decode(vae, vae_encode(vae, scene.target_image, device), device).pixels}
            start = Latent(torch.zeros_like(clean.x))
            fresh = sample(Guider(model, CFG(target, empty, 3.0)), Noise(seed), Sampler.of("ddim"), sigmas, start, device)[0]
            edits["regenerate"] = decode(vae, fresh, device).pixels
            for name, patched in (("way back", model), ("p2p", p2p), ("p2p + blend", blend)):
                out = sample(Guider(patched, CFG(both.positive, empty, 3.0)), Noise(None), Sampler.of("ddim"), sigmas, both.latent, device)[
                    0
                ]
                edits[name] = decode(vae, out, device).pixels[1:]
            for name, pixels in edits.items():
                with torch.no_grad():
                    objects = probe.read(pixels)[0].objects
                truth = probe.read(scene.target_image.pixels)[0].objects
                success = len(objects) == 1 and getattr(objects[0], attribute).label == getattr(truth[0], attribute).label
                places = [psnr(pixels, scene.target_image.pixels, mask) for mask in (1 - scene.edit_mask.values, scene.edit_mask.values)]
                found.setdefault((attribute, name), []).append((places[0], places[1], 0.0, success))
    return found


def _nouns(caption: str) -> str:
    return ", ".join(word for word in caption.split() if word in SHAPES)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--scenes", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--real", action="store_true", help="edit rendered scenes")
    parser.add_argument("--color", type=float, nargs=2, default=(0.8, 0.4), metavar=("CROSS", "SELF"))
    parser.add_argument("--shape", type=float, nargs=2, default=(0.8, 0.4), metavar=("CROSS", "SELF"))
    args = parser.parse_args()
    shares = {"color": tuple(args.color), "shape": tuple(args.shape)}
    how = "ddim normal" if args.real else "dpmpp_2m karras"
    names = ("outside, dB", "inside, dB") if args.real else ("IoU", "ground PSNR, dB")
    print(f"n = {args.scenes} per row, {how} {args.steps} steps, guidance 3; ± is the 95 % interval of the mean")
    found = on_real(args.scenes, args.steps) if args.real else measured(args.scenes, args.steps, shares)
    for (attribute, method), rows in found.items():
        columns = [[row[i] for row in rows] for i in range(4)]
        half = [1.96 * stdev(column) / len(column) ** 0.5 if len(column) > 1 else float("nan") for column in columns]
        first, second = (f"{name} {mean(c):.3f} ± {h:.3f}" for name, c, h in zip(names, columns[:2], half[:2], strict=True))
        print(f"{attribute:6} {method:16} {first}   {second}   probe {mean(columns[3]):.2f}", flush=True)


if __name__ == "__main__":
    main()
