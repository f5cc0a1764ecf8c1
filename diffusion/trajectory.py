"""Walks that are remembered, and walks from a stored state back down: what inversions make and what replays them.

A `Trajectory` holds a state for each level k = 0 (clean) … K (noisiest), in VE form and model scale. An inversion fills it with `walk`
or by its own loop. What edits with it may use it in three ways:

- start from the state of a level and visit its levels: `descent` gives both, `replay_step` the stepper, which takes its noises where it
  has some, and `with_uncond` a negative conditioning that takes its embeddings; `replayed` is all that in a session;
- hold the row "source" of a batch on it: the patch `diffusion.pair.Pinned`;
- read states by level: `diffusion.pair.state_at`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from diffusion.family import LatentFormat, family
from diffusion.guidance import Guidance
from diffusion.memory import TorchDevice
from diffusion.sample import check
from diffusion.samplers import Denoiser, Net, NoiseSource, OnStep, Stepper, integrate, make_stepper, silent
from diffusion.samplers.euler import ancestral
from diffusion.schedule import Schedule, Step
from diffusion.session import open_session
from diffusion.values import Cond, Conditioning, Latent, Model, Trajectory


def walk(net: Net, step: Stepper, x: Tensor, levels: Schedule, on_step: OnStep = silent) -> list[Tensor]:
    """The states of x on its way through the levels, the first and the last among them, as the steps saw them."""
    states: list[Tensor] = []

    def remembered(denoise: Denoiser, x: Tensor, s: Step, noise: NoiseSource) -> tuple[Tensor, Tensor]:
        states.append(x)
        return step(denoise, x, s, noise)

    last = integrate(remembered, net, x, levels, on_step=on_step)
    return [*states, last]


def posterior(x: Tensor, x0: Tensor, s: Step, eta: float) -> tuple[Tensor, float]:
    """(mean, unit) of a DDIM step down with η, in VE form: the state arrived at is mean + unit·z (Song et al. 2021, eq. 12 and 16).

    The unit is the deviation of the step's own noise; a step without any, as to level 0, counts in the level that it leaves, so that a
    remainder can be kept there, too.
    """
    down, up = ancestral(s.sigma, s.sigma_next, eta)
    return x0 + (x - x0) * (down / s.sigma), up or s.sigma


def check_path(path: Trajectory, form: LatentFormat) -> None:
    """Raise ValueError for a trajectory of another kind of model."""
    check(Latent(path.latents[0], format=path.format), form, "trajectory")


def level(path: Trajectory, share: float) -> int:
    """The index k of a path's level at a share of its steps: 0 is the clean end, 1 the noisiest. Rounded, so that 0.58 of 50 is 29."""
    return round(share * path.steps)


def descent(path: Trajectory, start: int, rows: int = 1) -> tuple[Tensor, Tensor]:
    """(the state of level `start` as a batch of at least `rows`, the levels from there down) of a path of one picture or of so many.

    Raises ValueError where the path has another number of pictures, or levels that do not rise from one to the next.
    """
    if not bool((path.sigmas.diff() > 0).all()):
        raise ValueError(
            f"trajectory: levels that rise from one to the next are wanted, {[round(s, 4) for s in path.sigmas.tolist()]} given"
        )
    return _as_rows(path.latents[start], rows), path.sigmas[: start + 1].flip(0)


def _as_rows(x: Tensor, rows: int) -> Tensor:
    if rows not in (1, len(x)) and len(x) != 1:
        raise ValueError(f"trajectory: that of one picture or of {rows} is wanted by the prompts, of {len(x)} given")
    return x.expand(max(rows, len(x)), *x.shape[1:])


def rows_of(conditioning: Conditioning) -> int:
    """How many different rows a conditioning tells a batch: 2 for a source and a target."""
    return max((len(entry.embeds) for entry in conditioning), default=1)


def check_rows(conditioning: Conditioning | None, pictures: int, name: str) -> None:
    """Raise ValueError for a batch of prompts that is not one for each picture, naming the input."""
    rows = 1 if conditioning is None else rows_of(conditioning)
    if rows not in (1, pictures):
        raise ValueError(f"{name}: one prompt is wanted, or {pictures} as there are pictures, {rows} given")


def replay_step(path: Trajectory, start: int) -> Stepper:
    """The stepper that goes down a path from level `start`: DDIM, or with the path's noises the stochastic steps that they belong to."""
    noises = path.noises
    if noises is None:
        return make_stepper("ddim")

    def step(denoise: Denoiser, x: Tensor, s: Step, noise: NoiseSource) -> tuple[Tensor, Tensor]:
        x0 = denoise(x, s.sigma)
        mean, unit = posterior(x, x0, s, path.eta)
        return mean + unit * _as_rows(noises[start - s.index - 1].to(x), len(x)), x0

    return step


def replayed(
    model: Model, guidance: Guidance, path: Trajectory, start: int, x: Tensor, device: TorchDevice, on_step: OnStep
) -> tuple[Latent, Trajectory]:
    """Walk x, a state of level `start` as `descent` gives it, down a path: (the latent, the way that it took, clean end first)."""
    form, sigmas = family(model.weights.family).latent, path.sigmas[: start + 1].flip(0)
    x, levels = x.to(device.torch, torch.float32), Schedule(model.process.table(), sigmas)
    with open_session(model, guidance, device, sigmas=levels.sigmas, shape=x.shape) as net:
        states = walk(net, replay_step(path, start), x, levels, on_step)
    taken = Trajectory(torch.stack(states[::-1]), sigmas.flip(0), format=form.name, evaluations=net.evaluations)
    return Latent(states[-1] / form.scale, format=form.name), taken


def only_entry(conditioning: Conditioning, name: str) -> Cond:
    """The one entry of a conditioning. Raises ValueError for several, naming the input."""
    if len(conditioning) != 1:
        raise ValueError(f"{name}: one entry is wanted, {len(conditioning)} given; encode a single prompt")
    return conditioning.entries[0]


def with_uncond(negative: Conditioning, path: Trajectory, start: int) -> Conditioning:
    """The negative conditioning of a walk down from level `start`, with the path's embedding of each step in the place of its own."""
    if path.uncond is None:
        return negative
    entry, own = only_entry(negative, "negative"), path.uncond[path.steps - start :]
    if own.shape[-1] != entry.embeds.shape[-1]:
        width, given = entry.embeds.shape[-1], own.shape[-1]
        raise ValueError(f"trajectory: embeddings of width {width} are wanted by the text encoder, {given} given")
    pooled = entry.pooled if path.pooled is None or entry.pooled is None else path.pooled
    return Conditioning((replace(entry, per_step=own, pooled=pooled),)) if len(own) else negative


def distances(a: Trajectory, b: Trajectory) -> Tensor:
    """Root mean square distance of two paths in VP form at each level that both have, [levels], counted from the clean end.

    Of a batch in b the first rows count, as many as a has pictures. Raises ValueError for paths over other levels or of another size.
    """
    n = min(len(a.latents), len(b.latents))
    if not torch.allclose(a.sigmas[:n].float(), b.sigmas[:n].float(), rtol=1e-4):
        raise ValueError("replay: the levels of the trajectory are wanted, others given")
    rows = a.latents.shape[1]
    if b.latents.shape[1] < rows or b.latents.shape[2:] != a.latents.shape[2:]:
        raise ValueError(f"replay: latents like {tuple(a.latents.shape[1:])} are wanted, {tuple(b.latents.shape[1:])} given")
    away = a.latents[:n].double() - b.latents[:n, :rows].to(a.latents).double()
    return away.square().mean(dim=(1, 2, 3, 4)).sqrt() / (1 + a.sigmas[:n].double().to(away) ** 2).sqrt()


def picked(steps: int, count: int) -> list[int]:
    """At most `count` levels of 0 … steps, evenly spaced, the ends among them; for one alone the clean end."""
    if count == 1:
        return [0]
    return sorted({round(i * steps / (count - 1)) for i in range(count)})
