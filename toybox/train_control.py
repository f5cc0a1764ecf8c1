"""Train the toybox's ControlNet and T2I-Adapter: `python -m toybox.train_control` makes both and ships them.

Needs the trained model and the cached latents (`python -m toybox.train all`). Goes on where it was stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import logging

import toybox
from toybox import control, hints, latents
from toybox.ddim import Diffuser
from toybox.optim import MuonAdamW
from toybox.run import Run

MINUTES = {"edges": 120.0, "colors": 40.0}
COPIED = 0.3  # the learning rate of the copied encoder, relative to that of what is new
COVERED = 2_000  # scenes that the hint encoder is taught with


def train(
    run: Run,
    kind: str,
    model: Diffuser,
    data: dict[str, Tensor],
    shown: dict[str, Tensor],
    device: str = "cpu",
    batch_size: int = 16,
    lr: float = 1e-3,
    decay: float = 0.998,
    until: int | None = None,
    warm_up: int = 600,
    start: Path | None = None,
) -> nn.Module:
    """Train with a warm-up of 50 steps and a linear decay, or only `until` a step of it; returns the average of the weights.

    A new network, or the one in the folder `start`.
    """
    torch.manual_seed(0)
    net = control.build(kind, model.unet)
    if start:
        net.load_state_dict(control.load(kind, start).state_dict())
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    side = control.Control(kind, net, model, device)
    state = run.resume()
    if kind == "edges" and state is None and start is None:
        encoder, into = net.get_submodule("controlnet_cond_embedding"), net.get_submodule("conv_in")
        with torch.no_grad():
            scale = into(data["latents"][:64].float().to(device)).std().item() / 2
        read = control.read_edges(encoder, shown, hints.coverage(min(len(shown["edges"]), COVERED)), scale, warm_up)
        run.log(f"the hint encoder finds objects with a loss of {read:.3f}")
    copied = [(name, p) for name, p in net.named_parameters() if kind == "edges" and not name.startswith("controlnet_")]
    new = [(name, p) for name, p in net.named_parameters() if kind != "edges" or name.startswith("controlnet_")]
    optimizers = [MuonAdamW(new, lr), *([MuonAdamW(copied, lr * COPIED)] if copied else [])]
    average = {k: v.clone() for k, v in net.state_dict().items()}
    if state:
        net.load_state_dict(state["model"])
        for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        average = state["average"]
    seen: list[float] = []
    recent: list[tuple[control.Batch, float]] = []
    clock, progress = run.elapsed, run.progress

    def checkpoint() -> dict[str, Any]:
        return {"model": net.state_dict(), "optimizers": [each.state_dict() for each in optimizers], "average": average}

    while progress < 1 and run.step != until:
        b = control.batch(kind, data, shown, model.tokenizer, run.step, batch_size)
        b = control.Batch(**{k: v.to(device) for k, v in vars(b).items()})
        loss = side.loss(b)
        loss.backward()
        progress = run.progress
        for optimizer in optimizers:
            optimizer.step(min(1.0, (run.step + 1) / 50) * max(1 - progress, 0.02))
        run.step += 1
        keep = min(decay, run.step / (run.step + 10))
        torch._foreach_lerp_(list(average.values()), list(net.state_dict().values()), 1 - keep)
        seen.append(loss.item())
        recent = [*recent[-3:], (b, loss.item())]
        if run.step % 50 == 0:
            rate, clock = 50 * batch_size / (run.elapsed - clock), run.elapsed
            with torch.no_grad():
                plain = sum(side.loss(each, 0.0).item() / loss for each, loss in recent) / len(recent)
            run.log(f"loss {sum(seen) / len(seen):.4f}, without control {plain:.3f} times as much, {rate:.1f} samples/s")
            seen.clear()
        if run.save_due:
            run.save(checkpoint())
    run.save(checkpoint())
    net.load_state_dict(average)
    return net


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m toybox.train_control", description=__doc__)
    parser.add_argument("kinds", nargs="*", default=list(control.KINDS), help="edges (ControlNet), colors (T2I-Adapter)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--minutes", type=float, help="of each training; by default 120 for the edges, 40 for the colours")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-3, help="of what is new; what was copied learns at 0.3 of it")
    parser.add_argument("--on", action="store_true", help="start from the networks that are there")
    parser.add_argument("--scenes", type=int, default=8_000, help="how many of the cached latents are used")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--out", type=Path, default=Path(".toybox"), help="the run folder: logs, checkpoints, cache")
    parser.add_argument("--weights", type=Path, default=toybox.WEIGHTS, help="the model; the networks go to its folder control/")
    args = parser.parse_args()
    if unknown := set(args.kinds) - set(control.KINDS):
        parser.error(f"edges or colors is wanted, {', '.join(sorted(unknown))} given")
    if args.threads:
        torch.set_num_threads(args.threads)
    logging.disable_progress_bar()
    file = args.out / "latents.safetensors"
    if not file.exists():
        parser.error(f"{file} is missing: `python -m toybox.train vae` and `... cache` make it")
    data = {"latents": latents.load(file)["latents"][: args.scenes]}
    shown = hints.cached(args.out / "hints.safetensors", len(data["latents"]))
    for kind in args.kinds:
        model = Diffuser.load(args.weights)
        run = Run(args.out, f"control_{kind}", args.minutes or MINUTES[kind])
        folder = args.weights / "control" / kind
        net = train(run, kind, model, data, shown, args.device, args.batch, args.lr, start=folder if args.on else None)
        control.export(net, folder)


if __name__ == "__main__":
    main()
