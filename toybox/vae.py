"""Training of the autoencoder: 128 x 128 pictures to latents 16 x 16 x 4 and back."""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from toybox import together
from toybox.draw import CELL
from toybox.optim import MuonAdamW
from toybox.run import Run
from toybox.scenes import render, sample

SCALING = 0.18215  # Stable Diffusion's, so that its users' constants hold here too
HELD_OUT_SEED = 10_000_000  # pictures from here on are never trained on
FULL = {"block_out_channels": (16, 32, 64, 128), "layers_per_block": 1, "norm_num_groups": 8}
MINIATURE = {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4}


def build(config: dict = FULL) -> AutoencoderKL:
    n = len(config["block_out_channels"])
    return AutoencoderKL(
        **config,
        down_block_types=("DownEncoderBlock2D",) * n,
        up_block_types=("UpDecoderBlock2D",) * n,
        mid_block_add_attention=False,
        latent_channels=4,
        sample_size=128,
        scaling_factor=SCALING,
    )


def pictures(first: int, count: int) -> Tensor:
    """Rendered scenes by seed as bytes, (n, 3, 128, 128), channels last in memory."""
    seeds = range(first, first + count)
    chunks = [render([sample(s) for s in seeds[i : i + 100]])[0] for i in range(0, count, 100)]
    return torch.cat([(c * 255).round().byte() for c in chunks]).permute(0, 3, 1, 2)


def to_signed(x: Tensor) -> Tensor:
    return x.float() / 127.5 - 1


def train(
    run: Run, device: str, config: dict = FULL, count: int = 6_000, lr: float = 2e-3, anchor: AutoencoderKL | None = None
) -> AutoencoderKL:
    """Minimise L1 + gradient L1 + low-pass L1 + log MSE + a trace of KL; crops of 64 pixels first, whole pictures last.

    With an anchor, training goes on from it and its latents hardly move, so that a U-Net trained on them carries over.
    """
    torch.manual_seed(0)
    vae = (copy.deepcopy(anchor).requires_grad_() if anchor else build(config)).to(device, memory_format=torch.channels_last)
    unit = SCALING if anchor else 1.0
    optimizer = MuonAdamW(vae.named_parameters(), lr)
    average = {k: v.clone() for k, v in vae.state_dict().items()}
    if state := run.resume():
        vae.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average = state["average"]
    train_set, held_out = pictures(0, count), to_signed(pictures(HELD_OUT_SEED, 64))
    run.log(f"{count} pictures rendered")
    progress = run.progress
    while progress < 1:
        x = together.own_part(_batch(train_set, run.step, whole=progress > 0.75)).to(device)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):  # with so few channels bf16 is slower on CPUs
            moments = vae.encode(x).latent_dist
            noise = torch.randn(moments.mean.shape, generator=torch.Generator().manual_seed(run.step)).to(device)
            y = vae.decode(moments.mean + moments.std * noise).sample.float()
        mean, var = moments.mean * unit, moments.var * unit**2
        loss = _loss(y, x) + 2e-5 * (mean.square() + var - var.log()).mean()
        if anchor:
            with torch.no_grad():
                before = anchor.encode(x).latent_dist.mean * unit
            loss = loss + 0.05 * (mean - before).square().mean()
        loss.backward()
        progress = together.average_gradients(vae.parameters(), run.progress)
        optimizer.step(min(1.0, (run.step + 1) / 50) * max(1 - progress, 0.01))
        run.step += 1
        keep = min(0.99, run.step / (run.step + 10))
        torch._foreach_lerp_([*average.values()], [*vae.state_dict().values()], 1 - keep)
        if together.rank() == 0 and run.step % 50 == 0:
            run.log(f"loss {loss.item():.4f}")
        if together.rank() == 0 and run.step % 500 == 0:
            run.log(f"PSNR {psnr(_with(config, average), held_out):.2f} dB")
        if together.rank() == 0 and run.save_due:
            run.save({"model": vae.state_dict(), "optimizer": optimizer.state_dict(), "average": average})
    best = _with(config, average)
    if together.rank() == 0:
        run.save({"model": vae.state_dict(), "optimizer": optimizer.state_dict(), "average": average})
        run.log(f"done, PSNR {psnr(best, held_out):.2f} dB")
    return best


def _with(config: dict, state: dict) -> AutoencoderKL:
    vae = build(config)
    vae.load_state_dict(state)
    return vae.eval()


def _batch(pictures: Tensor, step: int, whole: bool) -> Tensor:
    """Step's pictures, a function of the step alone: 4 whole ones or 16 crops of 64 pixels, most of them around an object."""
    lot = torch.Generator().manual_seed(step)
    if whole:
        return to_signed(pictures[torch.randint(len(pictures), (4,), generator=lot)])
    rows = torch.randint(len(pictures), (16,), generator=lot).tolist()
    corners = torch.randint(0, 65, (16, 2), generator=lot).tolist()
    for i, row in enumerate(rows[:11]):
        scene = sample(row)
        cx, cy = CELL[scene.objects[step % len(scene.objects)].position]
        corners[i] = [min(max(int(c) - 64 + corner // 2, 0), 64) for c, corner in zip((cy, cx), corners[i], strict=True)]
    crops = [pictures[r, :, i : i + 64, j : j + 64] for r, (i, j) in zip(rows, corners, strict=True)]
    return to_signed(torch.stack(crops)).contiguous(memory_format=torch.channels_last)


def _loss(y: Tensor, x: Tensor) -> Tensor:
    error = y - x
    gradient = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    by_picture = error.square().mean((1, 2, 3)) + 1e-4  # its logarithm weighs every picture alike, as the mean PSNR does
    return error.abs().mean() + 0.5 * gradient + 0.5 * F.avg_pool2d(error, 8).abs().mean() + 0.05 * by_picture.log().mean()


@torch.no_grad()
def psnr(vae: AutoencoderKL, images: Tensor) -> float:
    """Mean PSNR in dB over pictures in -1..1 of what comes back from the latents' means."""
    values = []
    for x in images.split(16):
        y = vae.decode(vae.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
        values += [-10 * math.log10(v) for v in ((y - x) / 2).square().mean((1, 2, 3)).tolist()]
    return sum(values) / len(values)
