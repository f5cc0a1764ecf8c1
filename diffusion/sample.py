"""From noise and a latent to a sampled latent: what every sampling node calls."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.batch import repeat_to
from diffusion.channels import Origin
from diffusion.family import LatentFormat, family
from diffusion.memory import TorchDevice
from diffusion.noise import MAX_SEED, noise_to_level, prepare_noise
from diffusion.patch import DenoiseAt, Moment, StepPatch
from diffusion.samplers import NoiseSource, OnStep, integrate, make_stepper, noise_source
from diffusion.schedule import Schedule
from diffusion.session import Net, open_session
from diffusion.values import Guider, Latent, Noise, Sampler, Sigmas

# ComfyUI draws new noise for the kept region of these, from seed + 1
FRESH_MASK_NOISE = frozenset({"ddim"})
SAME = {"ddim": "euler"}  # also up the levels, where DDIM inversion asks the network at the level that it goes to


class MaskRule(StepPatch):
    """Says how a noise mask holds at each level. Of several on one model the last one counts; without a noise mask it does nothing."""

    __slots__ = ()

    def mask_at(self, mask: Tensor, sigma: float, schedule: Schedule) -> Tensor:
        """The mask [b, 1, h, w] at a level of a schedule."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, eq=False)
class KeepOutside(StepPatch):
    """Inpainting of any model: the network sees the original, noised to the present level, where the mask is 0, and predicts it there.

    The mask is soft: both enter by its values. x := m·x + (1 − m)·(latent + σ·noise), D := m·D + (1 − m)·latent at every evaluation.
    """

    mask: Tensor  # [b, 1, h, w]
    latent: Tensor  # [b, c, h, w], model scale
    noise: Tensor  # [b, c, h, w]
    rule: MaskRule | None = None
    schedule: Schedule | None = None  # for the rule

    def denoise(self, x: Tensor, step: Moment, next: DenoiseAt) -> Tensor:
        """The guided D with the original outside of the mask."""
        mask = self.mask
        if self.rule is not None and self.schedule is not None:
            mask = self.rule.mask_at(mask, step.sigma, self.schedule)
        x = x * mask + (self.latent + self.noise * step.sigma) * (1 - mask)
        return next(x, step) * mask + self.latent * (1 - mask)


def sample(
    guider: Guider,
    noise: Noise,
    sampler: Sampler,
    sigmas: Sigmas,
    latent: Latent,
    device: TorchDevice,
    *,
    seed: int | None = None,
    on_step: OnStep | None = None,
    inspect: Callable[[Net], None] | None = None,
    samples: tuple[str, ...] = (),
) -> tuple[Latent, Latent]:
    """Walk a latent down the noise levels: (the latent at the last level, the last denoised estimate), both unscaled.

    Noise of the first level is added unless `noise` is disabled, also where it is the only level, as SplitSigmas may leave it; without
    levels the latent comes back unchanged. `seed` drives stochastic samplers (default: the noise's, else 0); `on_step(i, n, x0)` hears
    after i of n steps with the denoised estimate in model scale, and may raise to stop the run; `inspect` sees the net before the session
    closes (`net.state(patch)` gives what a patch gathered); `samples` names the rows of the batch for patches.
    """
    model = guider.model
    form = family(model.weights.family).latent
    check(latent, form)
    schedule = Schedule(model.process.table(), sigmas.values)
    if not schedule.sigmas:
        return latent, latent
    seed = (noise.seed or 0) if seed is None else seed
    start = latent.x.to(device.torch, torch.float32) * form.scale  # zeros stay zeros, as an empty latent must
    drawn = torch.zeros_like(start) if noise.seed is None else prepare_noise(start.shape, noise.seed, latent.batch_index).to(start)
    mask = None if latent.noise_mask is None else fit_mask(latent.noise_mask, start)
    if mask is not None:
        mask_noise = drawn
        if sampler.name in FRESH_MASK_NOISE:
            mask_noise = prepare_noise(start.shape, (seed + 1) % (MAX_SEED + 1)).to(start)
        rules = [patch for patch in model.patches if isinstance(patch, MaskRule)]
        model = model.patched(KeepOutside(mask, start, mask_noise, rules[-1] if rules else None, schedule))
    x = noise_to_level(start, drawn, schedule.sigmas[0], schedule.table.sigma_max)
    if len(schedule) == 0:
        return unscaled(x, latent, form), unscaled(x, latent, form)
    last = x

    def heard(i: int, n: int, x0: Tensor) -> None:
        nonlocal last
        last = x0
        if on_step is not None:
            on_step(i, n, x0)

    stepper = make_stepper(SAME.get(sampler.name, sampler.name), **dict(sampler.options))
    origin = Origin(start, mask)
    with open_session(model, guider.guidance, device, sigmas=schedule.sigmas, samples=samples, shape=x.shape, origin=origin) as net:
        source = noise_source(sampler.name, seed, x, schedule.sigmas)
        if any(len(entry.embeds) > 1 for conditioning in net.branches.values() for entry in conditioning):  # a source and its targets
            source = alike(source, latent.batch_index)
        x = integrate(stepper, net, x, schedule, source, heard)
        if inspect is not None:
            inspect(net)
    return unscaled(x, latent, form), unscaled(last, latent, form)


def alike(source: NoiseSource, batch_index: Sequence[int] | None) -> NoiseSource:
    """The noise of a stochastic sampler's steps, the same in all rows that start from the same noise."""
    if batch_index is None or len(set(batch_index)) == len(batch_index):
        return source
    first = [batch_index.index(i) for i in batch_index]
    return lambda sigma, sigma_next: source(sigma, sigma_next)[first]


def unscaled(x: Tensor, latent: Latent, form: LatentFormat) -> Latent:
    """The latent with what was sampled from it, x in model scale."""
    return replace(latent, x=x / form.scale, format=form.name)


def check(latent: Latent, form: LatentFormat, name: str = "latent") -> None:
    """Raise ValueError for a latent that a model of this format cannot take; `name` is the input that it came in by."""
    if latent.format is not None and latent.format != form.name:
        raise ValueError(f"{name}: a {form.name} latent is wanted by this model, {latent.format} given; encode with the model's own VAE")
    if latent.x.shape[1] != form.channels:
        raise ValueError(f"{name}: {form.channels} channels are wanted by this model, {latent.x.shape[1]} given")
    if math.prod(latent.x.shape) == 0:
        raise ValueError(f"{name}: at least one cell is wanted, shape {tuple(latent.x.shape)} given")


def fit_mask(mask: Tensor, like: Tensor) -> Tensor:
    """A noise mask [n, 1, h', w'] as [b, 1, h, w] of a latent: resized bilinearly, not binarised, rows repeated in turn."""
    resized = F.interpolate(mask.to(like), like.shape[2:], mode="bilinear")
    return repeat_to(resized[:, :1], like.shape[0])
