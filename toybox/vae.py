"""Training of the autoencoder: 128 x 128 pictures to latents 16 x 16 x 4 and back; first both halves, later the decoder alone."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

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


def train(run: Run, device: str, config: dict = FULL, count: int = 6_000, lr: float = 2e-3) -> AutoencoderKL:
    """Minimise L1 + gradient L1 + low-pass L1 + MSE + a trace of KL; crops of 64 pixels first, whole pictures last."""
    torch.manual_seed(0)
    vae = build(config).to(device, memory_format=torch.channels_last)
    # small steps in plenty: with batches this small Muon's orthogonalisation costs a CPU more than it saves
    optimizer = torch.optim.AdamW(vae.parameters(), lr, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    average = {k: v.clone() for k, v in vae.state_dict().items()}
    if state := run.resume():
        vae.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average = state["average"]
    train_set, held_out = pictures(0, count), to_signed(pictures(HELD_OUT_SEED, 64))
    run.log(f"{count} pictures rendered")

    while run.progress < 1:
        whole = run.progress > 0.8
        x = _batch(train_set, run.step, whole).to(device)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):  # with so few channels bf16 is slower on CPUs
            moments = vae.encode(x).latent_dist
            noise = torch.randn(moments.mean.shape, generator=torch.Generator().manual_seed(run.step)).to(device)
            y = vae.decode(moments.mean + moments.std * noise).sample
        loss = _loss(y.float(), x) + 2e-4 * moments.kl().mean() / moments.mean[0].numel()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (run.step + 1) / 100) * max(1 - run.progress, 0.01) ** 0.8
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        run.step += 1
        keep = min(0.995, run.step / (run.step + 10))
        torch._foreach_lerp_([*average.values()], [*vae.state_dict().values()], 1 - keep)
        if run.step % 50 == 0:
            run.log(f"loss {loss.item():.4f}")
        if run.step % 250 == 0:
            run.log(f"PSNR {psnr(_with(config, average), held_out):.2f} dB")
        if run.save_due:
            run.save({"model": vae.state_dict(), "optimizer": optimizer.state_dict(), "average": average})
    run.save({"model": vae.state_dict(), "optimizer": optimizer.state_dict(), "average": average})
    best = _with(config, average)
    run.log(f"done, PSNR {psnr(best, held_out):.2f} dB")
    return best


def polish(
    run: Run, device: str, vae: AutoencoderKL, count: int = 6_000, batch_size: int = 4, lr: float = 1e-3
) -> AutoencoderKL:
    """Train the decoder on alone, on whole pictures and noiseless latents: the latents, and so the U-Net, stay as they are."""
    vae = vae.to(device, memory_format=torch.channels_last).requires_grad_(False)
    trained = {k: p.requires_grad_() for k, p in vae.named_parameters() if k.startswith("decoder.")}
    optimizer = MuonAdamW(trained.items(), lr)
    average = {k: p.detach().clone() for k, p in trained.items()}
    if state := run.resume():
        vae.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average = state["average"]
    train_set, held_out = pictures(0, count), to_signed(pictures(HELD_OUT_SEED, 64))
    while run.progress < 1:
        rows = torch.randint(len(train_set), (batch_size,), generator=torch.Generator().manual_seed(run.step))
        x = to_signed(train_set[rows]).to(device)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            with torch.no_grad():
                z = vae.encode(x).latent_dist.mean
            y = vae.decode(z).sample.float()
        # the logarithm weighs every picture alike, as the mean PSNR does
        loss = _loss(y, x) + 0.05 * (y - x).square().mean((1, 2, 3)).log().mean()
        loss.backward()
        optimizer.step(min(1.0, (run.step + 1) / 50) * max(1 - run.progress, 0.01))
        run.step += 1
        keep = min(0.99, run.step / (run.step + 10))
        torch._foreach_lerp_([*average.values()], [p.detach() for p in trained.values()], 1 - keep)
        if run.step % 50 == 0:
            run.log(f"loss {loss.item():.4f}")
        if run.save_due:
            run.save({"model": vae.state_dict(), "optimizer": optimizer.state_dict(), "average": average})
            run.log(f"PSNR {psnr(vae, held_out):.2f} dB")
    run.save({"model": vae.state_dict(), "optimizer": optimizer.state_dict(), "average": average})
    vae.load_state_dict(average, strict=False)
    run.log(f"done, PSNR {psnr(vae, held_out):.2f} dB")
    return vae.eval()


def _with(config: dict, state: dict) -> AutoencoderKL:
    vae = build(config)
    vae.load_state_dict(state)
    return vae.eval()


def _batch(pictures: Tensor, step: int, whole: bool) -> Tensor:
    """Step's pictures, a function of the step alone: 2 whole ones or 8 crops of 64 pixels."""
    lot = torch.Generator().manual_seed(step)
    if whole:
        return to_signed(pictures[torch.randint(len(pictures), (2,), generator=lot)])
    rows = torch.randint(len(pictures), (8,), generator=lot)
    corners = torch.randint(0, 65, (8, 2), generator=lot).tolist()
    crops = [pictures[r, :, i : i + 64, j : j + 64] for r, (i, j) in zip(rows.tolist(), corners, strict=True)]
    return to_signed(torch.stack(crops)).contiguous(memory_format=torch.channels_last)


def _loss(y: Tensor, x: Tensor) -> Tensor:
    error = y - x
    gradient = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return error.abs().mean() + 0.5 * gradient + 0.5 * F.avg_pool2d(error, 8).abs().mean() + 2 * error.square().mean()


@torch.no_grad()
def psnr(vae: AutoencoderKL, images: Tensor) -> float:
    """Mean PSNR in dB over pictures in -1..1 of what comes back from the latents' means."""
    values = []
    for x in images.split(16):
        y = vae.decode(vae.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
        values += [-10 * math.log10(v) for v in ((y - x) / 2).square().mean((1, 2, 3)).tolist()]
    return sum(values) / len(values)
