"""Train the toybox's InstructPix2Pix variant: `python -m toybox.train_instruct` makes and ships it; goes on where it was stopped.

The U-Net gets four more input channels, at first without effect, in which it sees the picture to edit (Brooks et al. 2023, section 3.2).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTokenizer
from transformers.utils import logging

import toybox
from toybox import latents
from toybox.ddim import Diffuser
from toybox.export import scheduler
from toybox.generator import Eager, alpha_bars
from toybox.instructions import edit
from toybox.optim import MuonAdamW
from toybox.run import Run
from toybox.scenes import render
from toybox.vae import SCALING

WITHOUT = 0.05  # of the samples lack the words, as many the picture, as many both


def expanded(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """A copy that takes the latent and beside it the picture's, (b, 8, h, w), and at first gives what the original gives."""
    config = {name: value for name, value in unet.config.items() if not name.startswith("_")}  # among those is what to set back to defaults
    made = UNet2DConditionModel.from_config(config | {"in_channels": 2 * unet.config.in_channels})
    state = unet.state_dict()
    state["conv_in.weight"] = torch.cat((state["conv_in.weight"], torch.zeros_like(state["conv_in.weight"])), 1)
    made.load_state_dict(state)
    return made


@torch.no_grad()
def pairs(model: Diffuser, path: Path, count: int) -> Tensor:
    """Latents (count, 4, 16, 16) of what the edits with seeds 0, 1, ... lead to, from a file that is made where it is missing."""
    if path.exists():
        found: Tensor = load_file(path)["after"]
        if len(found) == count:
            return found
    made = []
    for start in range(0, count, 50):
        images, _ = render([edit(seed).after for seed in range(start, min(start + 50, count))])
        made.append((model.vae.encode(images.permute(0, 3, 1, 2) * 2 - 1).latent_dist.mean * SCALING).half())
    save_file({"after": torch.cat(made).contiguous()}, path)
    return torch.cat(made)


def batch(before: Tensor, after: Tensor, tokenizer: CLIPTokenizer, step: int, size: int) -> dict[str, Tensor]:
    """A function of the step alone, so that runs resume exactly."""
    lot = torch.Generator().manual_seed(step)
    epoch_steps = max(1, len(after) // size)
    order = torch.randperm(len(after), generator=torch.Generator().manual_seed(step // epoch_steps))
    rows = order[(step % epoch_steps) * size :][:size]
    r = torch.rand(len(rows), generator=lot)
    texts = ["" if r[i] < 2 * WITHOUT else edit(row).text for i, row in enumerate(rows.tolist())]
    seen = ((r < WITHOUT) | (r >= 3 * WITHOUT)).float()[:, None, None, None]
    u = (torch.randperm(size, generator=lot)[: len(rows)] + torch.rand(len(rows), generator=lot)) / size
    return {
        "after": after[rows].float(),
        "shown": before[rows].float() / SCALING * seen,  # the autoencoder's own scale, as Stable Diffusion's variant sees it
        "tokens": tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids,
        "t": (1000 * u**0.7).long().clamp(max=999),
        "noise": torch.randn(len(rows), 4, 16, 16, generator=lot),
    }


def loss(unet: UNet2DConditionModel, text: nn.Module, alpha_bar: Tensor, b: dict[str, Tensor]) -> Tensor:
    """The noise-prediction loss, min-SNR weighted (Hang et al. 2023)."""
    a = alpha_bar[b["t"]][:, None, None, None]
    x_t = a.sqrt() * b["after"] + (1 - a).sqrt() * b["noise"]
    with torch.no_grad():
        words = text(b["tokens"]).last_hidden_state
    eps = unet(torch.cat((x_t, b["shown"]), 1), b["t"], words).sample
    snr = (a / (1 - a)).flatten()
    weight = snr.clamp(max=5) / snr * (0.25 / snr).clamp(1, 16).sqrt()
    return (weight * (eps.float() - b["noise"]).square().mean((1, 2, 3))).mean()


def train(
    run: Run, start: UNet2DConditionModel, model: Diffuser, before: Tensor, after: Tensor, device: str = "cpu", batch_size: int = 16,
    lr: float = 7e-4, decay: float = 0.998, until: int | None = None,
) -> UNet2DConditionModel:  # fmt: skip
    """Train a network with a warm-up of 50 steps and a linear decay, or only `until` a step of it; returns the average of the weights."""
    torch.manual_seed(0)
    unet = start.to(device, memory_format=torch.channels_last)
    unet.set_attn_processor(Eager())
    text, alpha_bar = model.text_encoder.to(device), alpha_bars().to(device)
    optimizer = MuonAdamW(unet.named_parameters(), lr)
    average = {k: v.clone() for k, v in unet.state_dict().items()}
    if state := run.resume():
        unet.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average = state["average"]
    seen: list[float] = []
    clock, progress = run.elapsed, run.progress
    while progress < 1 and run.step != until:
        b = batch(before, after, model.tokenizer, run.step, batch_size)
        value = loss(unet, text, alpha_bar, {k: v.to(device) for k, v in b.items()})
        value.backward()
        progress = run.progress
        optimizer.step(min(1.0, (run.step + 1) / 50) * max(1 - progress, 0.02))
        run.step += 1
        keep = min(decay, run.step / (run.step + 10))
        torch._foreach_lerp_(list(average.values()), list(unet.state_dict().values()), 1 - keep)
        seen.append(value.item())
        if run.step % 50 == 0:
            rate, clock = 50 * batch_size / (run.elapsed - clock), run.elapsed
            run.log(f"loss {sum(seen) / len(seen):.4f} {rate:.1f} samples/s")
            seen.clear()
        if run.save_due:
            run.save({"model": unet.state_dict(), "optimizer": optimizer.state_dict(), "average": average})
    run.save({"model": unet.state_dict(), "optimizer": optimizer.state_dict(), "average": average})
    unet.load_state_dict(average)
    return unet


def export(unet: UNet2DConditionModel, folder: Path) -> None:
    """Write a diffusers folder of U-Net and schedule, the weights in half precision; the network's own become half, too."""
    unet.to(torch.float16, memory_format=torch.contiguous_format)
    unet.save_pretrained(folder / "unet")
    scheduler().save_pretrained(folder / "scheduler")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m toybox.train_instruct", description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument(
        "--pairs", type=int, default=8_000, help="how many edits are learned from; at most as many as there are cached latents"
    )
    parser.add_argument("--lr", type=float, default=7e-4)
    parser.add_argument("--on", action="store_true", help="start from the variant that is there")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--out", type=Path, default=Path(".toybox"), help="the run folder: log, checkpoint, caches")
    parser.add_argument("--weights", type=Path, default=toybox.WEIGHTS, help="the model; the variant goes to its folder instruct/")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    logging.disable_progress_bar()
    file = args.out / "latents.safetensors"
    if not file.exists():
        parser.error(f"{file} is missing: `python -m toybox.train vae` and `... cache` make it")
    model = Diffuser.load(args.weights)
    before = latents.load(file)["latents"][: args.pairs]
    after = pairs(model, args.out / "edits.safetensors", len(before))
    run = Run(args.out, "instruct", args.minutes)
    start = expanded(model.unet)
    if args.on:
        start.load_state_dict(load_file(args.weights / "instruct" / "unet" / "diffusion_pytorch_model.safetensors"))
    export(train(run, start, model, before, after, args.device, args.batch, args.lr), args.weights / "instruct")


if __name__ == "__main__":
    main()
