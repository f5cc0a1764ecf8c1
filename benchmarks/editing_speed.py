"""What editing costs over plain sampling, as ratios measured in one run, the variants taking turns.

    python benchmarks/editing_speed.py [--only p2p|sige] [--quick] [--rounds 3] [--device cpu]

First Prompt-to-Prompt, on the toybox and on a random U-Net of Stable Diffusion's layout at a fifth of its width: plain sampling of two rows
with guidance, Prompt-to-Prompt over the whole run, the same with local blend, and the way the authors' code does it, which forms all
maps of all layers in float32 and adds them up. Then sparse inference (SIGE) over dense, as `sparse.py` measures it, for 1, 5, 15 and 40 %
of the picture edited: on a U-Net and a VAE of Stable Diffusion 1's size at 64 × 64 cells, with --quick on narrower ones at 32 × 32.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import sparse
import torch
from torch import Tensor

import toybox
from diffusion.guidance import CFG
from diffusion.loading import open_checkpoint
from diffusion.memory import TorchDevice, open_device
from diffusion.pair import pairs, stacked
from diffusion.patch import Attend, AttentionPatch, AttnCall, Run
from diffusion.sample import sample
from diffusion.spacing import sigmas_for
from diffusion.text import encode
from diffusion.token_alignment import TokenAlignment, columns
from diffusion.values import Clip, Conditioning, Guider, Latent, Model, Noise, Sampler, Sigmas
from graph_engine.context import Context
from nodes.local_blend import LocalBlend
from nodes.prompt_to_prompt import AlignPrompts, PromptToPrompt

SOURCE, TARGET = "a large red star on a blue plain background", "a large green star on a blue plain background"
MOST = 32 * 32  # queries of the self-attention maps that the authors' code keeps and replaces


@dataclass(frozen=True, slots=True, eq=False)
class AllMaps(AttentionPatch):
    """Prompt-to-Prompt as the authors' code does it: every map of every layer in float32, stored, edited, then multiplied with v."""

    alignment: TokenAlignment

    def begin(self, run: Run) -> Any:
        """A store of its own."""
        return _AllMaps(self.alignment)


@dataclass(slots=True, eq=False)
class _AllMaps(AttentionPatch):
    alignment: TokenAlignment
    store: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, call: AttnCall, next: Attend) -> Tensor:
        """Attention through its maps."""
        sources, targets = pairs(call.rows, "positive")

        def edit(probs: Tensor) -> Tensor:
            probs = probs.float()
            cond = probs[call.rows["positive"]]
            if call.q.shape[2] <= MOST:
                held = self.store.get(call.site.name)
                self.store[call.site.name] = cond.clone() if held is None else held + cond
            out = probs.clone()
            for source, target, edit in zip(sources, targets, self.alignment.targets, strict=True):
                if call.site.cross:
                    b, own = columns(edit, self.alignment.source, torch.ones(len(edit.tokens)), probs.shape[-1])
                    out[target] = probs[source] @ b.to(probs) + probs[target] * own.to(probs)
                elif call.q.shape[2] <= MOST:
                    out[target] = probs[source]
            return out.to(call.v.dtype)

        return next(call.edit_probs(edit))


def wide_model(folder: Path) -> tuple[Model, Clip]:
    """A random U-Net with Stable Diffusion 1's blocks, heads and levels, a fifth as wide, with the toybox's text encoder."""
    from diffusers import UNet2DConditionModel

    for part in ("text_encoder", "tokenizer", "vae", "scheduler", "model_index.json"):
        (folder / part).symlink_to(toybox.WEIGHTS / part)
    width = json.loads((toybox.WEIGHTS / "unet" / "config.json").read_text())["cross_attention_dim"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        UNet2DConditionModel(block_out_channels=(64, 128, 256, 256), cross_attention_dim=width, attention_head_dim=8).save_pretrained(
            folder / "unet"
        )
    model, clip, _ = open_checkpoint(folder)
    return model, clip


def timed(run: Callable[[], object], device: TorchDevice) -> float:
    """Seconds of a run: of the processor's own time, so that other programs do not count, or until a GPU is done."""
    if device.torch.type == "cpu":
        start = time.process_time()
        run()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def ratios(title: str, model: Model, clip: Clip, side: int, steps: int, rounds: int, device: TorchDevice) -> None:
    """Print each variant's median time over plain sampling's."""
    ctx = Context.silent(device)
    positive = stacked(encode(clip, SOURCE, device), encode(clip, TARGET, device))
    empty: Conditioning = encode(clip, "", device)
    alignment = AlignPrompts(positive=positive, mode="replace").run(ctx)
    p2p = PromptToPrompt(model=model, alignment=alignment, cross_replace=1.0, self_replace=1.0).run(ctx)
    blend = LocalBlend(model=p2p, alignment=alignment, source_words="star", target_words="star").run(ctx)
    variants = {"plain two rows": model, "P2P": p2p, "P2P + local blend": blend, "all maps in float32": model.patched(AllMaps(alignment))}
    sigmas = Sigmas(sigmas_for(model.process.table(), "karras", steps, 1.0, "euler"))
    latent = Latent(torch.zeros(2, 4, side, side), batch_index=(0, 0))
    seconds: dict[str, list[float]] = {name: [] for name in variants}

    def run(patched: Model) -> object:
        return sample(Guider(patched, CFG(positive, empty, 3.0)), Noise(0), Sampler.of("euler"), sigmas, latent, device)

    run(model)  # the first run opens the weights
    for _ in range(rounds):
        for name, patched in variants.items():
            seconds[name].append(timed(lambda patched=patched: run(patched), device))  # type: ignore[misc]
    print(f"\n{title}, latent {side} × {side}, {steps} steps, median of {rounds} rounds on {device.name}")
    for name, all_of_it in seconds.items():
        each = [t / p for t, p in zip(all_of_it, seconds["plain two rows"], strict=True)]
        spread = f"{min(each):.2f} – {max(each):.2f}"
        print(f"  {name:20} {median(all_of_it):8.3f} s   {median(each):5.2f} ×   ({spread} ×)", flush=True)


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["p2p", "sige"])
    parser.add_argument(
        "--latent", type=int, default=32, help="side of Prompt-to-Prompt's latent on the wide model; 64 is a picture of 512"
    )
    sparse.options(parser)
    args = parser.parse_args()
    if args.only != "sige":
        device = open_device(args.device)
        model, clip, _ = open_checkpoint(toybox.WEIGHTS)
        ratios("toybox", model, clip, 16, 2 * args.steps, args.rounds, device)
        with tempfile.TemporaryDirectory() as folder:
            wide = wide_model(Path(folder))
            ratios("Stable Diffusion's layout, a fifth as wide", *wide, args.latent, 2 * args.steps, args.rounds, device)
    if args.only != "p2p":
        print("\nsparse inference (SIGE) over dense")
        sparse.measure(args)


if __name__ == "__main__":
    main()
