"""Train the toybox model: `python -m toybox.train all` makes the autoencoder, the cached latents, the U-Net and the
shipped folder.

Every stage goes on where it was stopped and runs unchanged on a CPU or a GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from diffusers import AutoencoderKL

import toybox
from toybox import export, generator, latents, together, tokenizer, vae
from toybox.run import Run

Stage = Callable[[Path, str, float], None]
STAGES = ("vae", "cache", "unet", "export", "all")


def train_vae(folder: Path, device: str, minutes: float) -> None:
    """The autoencoder, its latents normalised, in `folder/vae`."""
    best = vae.train(Run(folder, "vae", minutes), device)
    if together.rank() > 0:
        return
    latents.fold_normalization(best, vae.to_signed(vae.pictures(0, 512)))
    held_out = vae.to_signed(vae.pictures(vae.HELD_OUT_SEED, 256))
    print(f"held-out PSNR {vae.psnr(best, held_out):.2f} dB")
    best.save_pretrained(folder / "vae")


def cache(folder: Path, device: str, scenes: int) -> None:
    """The training set's latents and masks in `folder/latents.safetensors`."""
    latents.cache(AutoencoderKL.from_pretrained(folder / "vae"), folder / "latents.safetensors", scenes, device)


def train_unet(folder: Path, device: str, minutes: float) -> None:
    """The U-Net and the text encoder, in the checkpoint `folder/unet.pt`."""
    data = latents.load(folder / "latents.safetensors")
    generator.train(Run(folder, "unet", minutes), device, data, tokenizer.build())


def one_of(rank: int, processes: int, meeting_point: Path, stage: Stage, folder: Path, minutes: float) -> None:
    """What each of several processes of one thread does."""
    torch.set_num_threads(1)
    together.join(meeting_point, rank, processes)
    stage(folder, "cpu", minutes)
    together.leave()


def run(stage: Stage, folder: Path, device: str, minutes: float, processes: int) -> None:
    if processes == 1:
        stage(folder, device, minutes)
        return
    with TemporaryDirectory() as meeting_place:
        rest = (processes, Path(meeting_place) / "point", stage, folder, minutes)
        torch.multiprocessing.spawn(one_of, rest, nprocs=processes)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m toybox.train", description=__doc__)
    parser.add_argument("stage", choices=STAGES, nargs="?", default="all")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--vae-minutes", type=float, default=40)
    parser.add_argument("--minutes", type=float, default=75, help="of U-Net training")
    parser.add_argument("--scenes", type=int, default=10_000, help="in the cached training set")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--processes", type=int, default=1, help="on a CPU; beside other jobs better than threads")
    parser.add_argument("--out", type=Path, default=Path(".toybox"), help="the run folder: logs, checkpoints, cache")
    parser.add_argument("--weights", type=Path, default=toybox.WEIGHTS, help="where export writes")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    wanted = STAGES[:-1] if args.stage == "all" else (args.stage,)
    if "vae" in wanted and not (args.out / "vae").exists():
        run(train_vae, args.out, args.device, args.vae_minutes, args.processes)
    if "cache" in wanted and not (args.out / "latents.safetensors").exists():
        cache(args.out, args.device, args.scenes)
    if "unet" in wanted:
        run(train_unet, args.out, args.device, args.minutes, args.processes)
    if "export" in wanted:
        model = generator.read(args.out / "unet.pt", tokenizer.build())
        export.export(model, AutoencoderKL.from_pretrained(args.out / "vae"), args.weights)


if __name__ == "__main__":
    main()
