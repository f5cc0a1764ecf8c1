"""SDEdit (Meng et al. 2022): noise a guide up to a level and denoise it from there; what a mask keeps is written anew at every level."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffusion.batch import repeat_to
from diffusion.family import family
from diffusion.memory import TorchDevice
from diffusion.noise import MAX_SEED, noise_to_level, prepare_noise
from diffusion.patch import StepPatch
from diffusion.sample import MaskRule, check, sample
from diffusion.samplers import OnStep, silent
from diffusion.schedule import Schedule, Step, Table
from diffusion.spacing import sigmas_for
from diffusion.values import Guider, Latent, Noise, Sampler, Sigmas

STRIDE = 0x9E3779B97F4A7C15  # between seeds of one run; odd and far from the small numbers that people type


def derived(seed: int, n: int) -> int:
    """The n-th further seed of a run; number 0 is the seed itself."""
    return (seed + n * STRIDE) % (MAX_SEED + 1)


def levels_below(table: Table, t0: float, scheduler: str, steps: int, sampler: str | None = None) -> Tensor:
    """The levels of `steps` steps from t0 down to 0; t0 is a share of the training timesteps, and 0 gives no levels.

    The named spacing is laid over the part of the table below t0, so that the first level is t0's own and every step is walked; neither
    the last int(steps · t0) steps of a longer list nor those of int(steps / t0).
    """
    if t0 <= 0:
        return torch.zeros(0)
    last = max(1, round(t0 * (len(table) - 1)))
    return sigmas_for(replace(table, alphas_cumprod=table.alphas_cumprod[: last + 1]), scheduler, steps, sampler=sampler)


@dataclass(frozen=True, slots=True, eq=False)
class WriteKept(StepPatch):
    """x_k := m·x_k + (1 − m)·(source + σ_k·z) after the step that arrives at level k, so that both sides have the same level.

    One z for all levels keeps the background's noise in place; a fresh one for each level hides the seam better.
    """

    mask: Tensor  # [b, 1, h, w]
    source: Tensor  # [b, c, h, w], model scale
    seed: int
    fresh: bool = False
    batch_index: tuple[int, ...] | None = None
    rule: MaskRule | None = None
    schedule: Schedule | None = None  # for the rule

    def after(self, x: Tensor, x0: Tensor, step: Step) -> Tensor:
        """The state with the source, noised to the level that was reached, where the mask is not."""
        mask = self.mask
        if self.rule is not None and self.schedule is not None:
            level = max(step.sigma_next, self.schedule.table.sigma_min)
            mask = self.rule.mask_at(mask, level, self.schedule) * (mask > 0)
        seed = derived(self.seed, step.index + 1) if self.fresh else self.seed
        noise = prepare_noise(x.shape, seed, self.batch_index).to(x)
        return x * mask + (self.source + step.sigma_next * noise) * (1 - mask)


def sdedit(
    guider: Guider,
    guide: Latent,
    sampler: Sampler,
    sigmas: Sigmas,
    seed: int,
    device: TorchDevice,
    *,
    mask: Tensor | None = None,
    source: Latent | None = None,
    fresh: bool = False,
    repeats: int = 1,
    on_step: OnStep = silent,
) -> tuple[Latent, Latent]:
    """x = g + σ_0·z, denoised down the levels, `repeats` times over with the result as next guide: (the result, the first x), unscaled.

    Where the mask [b, 1, h, w] of latent cells is 0 the source (default: the guide) stays: noised at every level, and at the end as it
    was, bit for bit. The mask is 0 or 1 but for a model with a mask rule, which makes a grey one 0 or 1 at each level. No levels: the
    guide comes back. A noise mask of the guide is not looked at. Source: Meng et al. 2022, alg. 2 and 3; unlike their code the kept part
    is written at the level that was reached, not at the one before.
    """
    form = family(guider.model.weights.family).latent
    check(guide, form, "guide")
    kept = guide if source is None else _as_batch(source, guide, form.name)
    start = guide.x if mask is None else torch.where(mask.to(guide.x) > 0, guide.x, kept.x)
    schedule, count = Schedule(guider.model.process.table(), sigmas.values), max(len(sigmas), 1)
    current, first = replace(guide, x=start, noise_mask=None), None
    for r in range(repeats):
        own = derived(seed, r * count)  # leaves room for the fresh noises of each level
        if first is None:
            first = replace(guide, x=noised(current, own, schedule, form.scale), format=form.name)
        model = guider.model
        if mask is not None:
            rules = [patch for patch in model.patches if isinstance(patch, MaskRule)]
            x_source = kept.x.to(device.torch, torch.float32) * form.scale
            rule = rules[-1] if rules else None
            model = model.patched(WriteKept(mask.to(x_source), x_source, own, fresh, guide.batch_index, rule, schedule))

        def heard(i: int, n: int, x0: Tensor, r: int = r) -> None:
            on_step(r * n + i, repeats * n, x0)

        current = sample(replace(guider, model=model), Noise(own), sampler, sigmas, current, device, on_step=heard)[0]
        if mask is not None and schedule.sigmas[-1:] in ((), (0.0,)):  # else the kept part has the noise of the last level, too
            current = replace(current, x=torch.where(mask.to(current.x) > 0, current.x, kept.x.to(current.x)))
    return replace(current, noise_mask=guide.noise_mask), first or current


def noised(latent: Latent, seed: int, schedule: Schedule, scale: float) -> Tensor:
    """The VE state of a latent at a schedule's first level, unscaled; the latent itself where there is none."""
    if len(schedule) == 0:
        return latent.x
    start = latent.x.float() * scale
    noise = prepare_noise(start.shape, seed, latent.batch_index).to(start)
    return noise_to_level(start, noise, schedule.sigmas[0], schedule.table.sigma_max) / scale


def _as_batch(source: Latent, guide: Latent, name: str | None) -> Latent:
    if source.format not in (None, name):
        raise ValueError(f"source: a {name} latent is wanted by this model, {source.format} given")
    if source.x.shape[1:] != guide.x.shape[1:] or len(source.x) not in (1, len(guide.x)):
        raise ValueError(f"source: shape {tuple(guide.x.shape)} is wanted as the guide's, {tuple(source.x.shape)} given")
    return replace(source, x=repeat_to(source.x, len(guide.x)).to(guide.x))
