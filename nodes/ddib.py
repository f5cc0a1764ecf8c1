"""DDIB (Su et al. 2023): a picture goes up one model's probability-flow ODE into noise and comes down another's, or another prompt's."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from diffusion.compare import psnr
from diffusion.family import family
from diffusion.guidance import CFG, Conditional, Guidance
from diffusion.memory import TorchDevice
from diffusion.preview import jpeg
from diffusion.sample import check, unscaled
from diffusion.samplers import Denoiser, Net, NoiseSource, OnStep, Stepper, ddim_step, eps_of, integrate, silent
from diffusion.schedule import Schedule, Step, Table
from diffusion.session import open_session
from diffusion.spacing import sigmas_for
from diffusion.vae import decode
from diffusion.values import VAE, Conditioning, Latent, Metrics, Model, Sigmas, Trajectory
from graph_engine.errors import NodeError
from graph_engine.node import Node
from nodes.params import Scale, SchedulerName, Steps, number

if TYPE_CHECKING:
    from graph_engine.context import Context


def ode_step(refine: int = 0) -> Stepper:
    """DDIM with η = 0 up or down. Upwards it asks about the state it left; each refinement asks anew about the one it reached.

    At the fixed point x_u = F(x_t, ε(x_u, u)) the step down from x_u leads back to x_t exactly.
    """

    def step(denoise: Denoiser, x: Tensor, s: Step, noise: NoiseSource) -> tuple[Tensor, Tensor]:
        eps, x_t = eps_of(denoise), x * s.alpha_t
        x_u, x0 = ddim_step(eps, x_t, s)
        for _ in range(refine if s.ascending else 0):
            reached = eps(x_u, s.sigma_net)
            x_u, x0 = ddim_step(lambda *_, e=reached: e, x_t, s)
        return x_u / s.alpha_u, x0

    return step


def ode_encode(net: Net, x0: Tensor, levels: Schedule, refine: int = 0, on_step: OnStep = silent) -> list[Tensor]:
    """The states of x0 on its way up levels that are given noisiest first, clean one first, in VE form (alg. 1, line 1)."""
    states, step = [x0], ode_step(refine)

    def remembered(denoise: Denoiser, x: Tensor, s: Step, noise: NoiseSource) -> tuple[Tensor, Tensor]:
        x, x0 = step(denoise, x, s, noise)
        states.append(x)
        return x, x0

    integrate(remembered, net, x0, levels.reversed(), on_step=on_step)
    return states


def ode_decode(net: Net, x: Tensor, levels: Schedule, on_step: OnStep = silent) -> Tensor:
    """A VE state at the first level, walked down the levels (alg. 1, line 2)."""
    return integrate(ode_step(), net, x, levels, on_step=on_step)


def same_noise(sigmas: Tensor, table: Table) -> Tensor:
    """Levels of equal log-SNR = −2 ln σ, noisiest first, as far as another model knows them: its own noisiest level stands for all above.

    Its cleanest likewise for those below, but for 0. Both models then ask about the same states, whatever timestep each calls them.
    """
    inside = sigmas[(sigmas < table.sigma_max) & (sigmas > table.sigma_min)]
    ends = [sigmas.new_tensor([bound]) for bound in (table.sigma_max, table.sigma_min)]
    top = [ends[0]] if bool((sigmas >= table.sigma_max).any()) else []
    low = [ends[1]] if bool(((sigmas <= table.sigma_min) & (sigmas > 0)).any()) else []
    return torch.cat([*top, inside, *low, sigmas[sigmas == 0]])


@dataclass(frozen=True, slots=True)
class End:
    """One end of a bridge: a model, what it is told going up and coming down, and its levels, noisiest first."""

    model: Model
    up: Guidance
    down: Guidance
    sigmas: Tensor

    @property
    def levels(self) -> Schedule:
        return Schedule(self.model.process.table(), self.sigmas)


def cross(a: End, b: End, x0: Tensor, refine: int, device: TorchDevice, on_step: OnStep) -> tuple[list[Tensor], Tensor]:
    """(the states on the way up a, the clean end of b) of x0 in model scale; the middle is handed over in VP form, as N(0, I)."""
    n = len(a.levels) + len(b.levels)
    with open_session(a.model, a.up, device, sigmas=a.levels.sigmas[::-1], shape=x0.shape) as net:
        states = ode_encode(net, x0, a.levels, refine, lambda i, _, seen: on_step(i, n, seen))
    x = states[-1] * math.sqrt((1 + b.levels.sigmas[0] ** 2) / (1 + a.levels.sigmas[0] ** 2))
    with open_session(b.model, b.down, device, sigmas=b.levels.sigmas, shape=x0.shape) as net:
        return states, ode_decode(net, x, b.levels, lambda i, _, seen: on_step(len(a.levels) + i, n, seen))


def gaussianity(x: Tensor, sigma: float) -> tuple[float, float]:
    """Mean and standard deviation of a VE state in VP form: 0 and 1 where the noise is as the model expects it."""
    x = x / math.sqrt(1 + sigma**2)
    return x.mean().item(), x.std().item()


# nodes

Refine = Annotated[int, number(0, 20, 1, "Fixed-point iterations of each step up; each costs an evaluation and makes the way back truer.")]
Match = Annotated[
    Literal["logsnr", "index"],
    Field(description="logsnr: both walk levels of the same noise; index: each its own timesteps, which agree for equal schedules only."),
]


class MatchLevels(Node, category="editing/ddib", title="Match Levels", aliases=("log-snr", "ddib")):
    """Levels for another model at the same log-SNR, as far as it knows them: two models then meet at one amount of noise."""

    model: Annotated[Model, Field(description="The other model.")]
    sigmas: Annotated[Sigmas, Field(description="Levels of the first one, noisiest first.")]

    def run(self, ctx: Context) -> Sigmas:
        return Sigmas(same_noise(self.sigmas.values, self.model.process.table()))


class ODEEncode(Node, category="editing/ddib", title="ODE Encode", aliases=("ddib", "latent encoding", "inversion")):
    """Walk a clean latent up the probability-flow ODE to its noise (Song et al. 2021, eq. 13)."""

    model: Annotated[Model, Field(description="The denoiser of the picture's own domain.")]
    latent: Annotated[Latent, Field(description="The picture, encoded.")]
    positive: Annotated[Conditioning, Field(description="What the picture shows.")]
    sigmas: Annotated[Sigmas, Field(description="Levels to walk, noisiest first, to 0; many, as each step is of first order.")]
    refine: Refine = 0

    class Out(NamedTuple):
        latent: Annotated[Latent, Field(description="The noise: a state at the first of the levels.")]
        trajectory: Trajectory
        metrics: Annotated[Metrics, Field(description="mean and std of the noise: near 0 and 1 where the model knows such pictures.")]

    def run(self, ctx: Context) -> Out:
        levels = Schedule(self.model.process.table(), _descending(self.sigmas.values))
        x0, form = _start(self.model, self.latent, ctx), family(self.model.weights.family).latent
        with open_session(self.model, Conditional(self.positive), ctx.device, sigmas=levels.sigmas[::-1], shape=x0.shape) as net:
            states = ode_encode(net, x0, levels, self.refine, lambda i, n, seen: ctx.step(i, n, lambda: jpeg(seen, self.model.weights)))
        path = Trajectory(torch.stack(states), torch.tensor(levels.sigmas[::-1]), format=form.name)
        mean, std = gaussianity(states[-1], levels.sigmas[0])
        ctx.show(text=f"noise: mean {mean:.4f}, standard deviation {std:.4f}")
        return self.Out(unscaled(states[-1], self.latent, form), path, Metrics((("mean", mean), ("std", std))))


class ODEDecode(Node, category="editing/ddib", title="ODE Decode", aliases=("ddib", "latent decoding")):
    """Walk noise down the probability-flow ODE of a model to a clean latent."""

    model: Annotated[Model, Field(description="The denoiser of the domain to arrive in.")]
    latent: Annotated[Latent, Field(description="A state at the first of the levels, as ODE Encode gives it.")]
    positive: Annotated[Conditioning, Field(description="What the picture is to show.")]
    negative: Annotated[Conditioning | None, Field(description="Needed for guidance only.")] = None
    sigmas: Annotated[Sigmas, Field(description="Levels to walk, noisiest first; Match Levels gives those of another model.")]
    cfg: Scale = 1.0

    def run(self, ctx: Context) -> Latent:
        levels = Schedule(self.model.process.table(), _descending(self.sigmas.values))
        x, form = _start(self.model, self.latent, ctx), family(self.model.weights.family).latent
        with open_session(
            self.model, _down(self.positive, self.negative, self.cfg), ctx.device, sigmas=levels.sigmas, shape=x.shape
        ) as net:
            x = ode_decode(net, x, levels, lambda i, n, seen: ctx.step(i, n, lambda: jpeg(seen, self.model.weights)))
        return unscaled(x, self.latent, form)


class DualBridge(Node, category="editing/ddib", title="Dual Diffusion Bridge", aliases=("ddib", "image to image", "domain translation")):
    """Take a picture from one model or prompt to another over their common noise (Su et al. 2023, alg. 1); back again as a check.

    The way up is never guided; guidance on the way down changes more and leads back less well.
    """

    model_a: Annotated[Model, Field(description="The denoiser of the picture's own domain.")]
    model_b: Annotated[Model, Field(description="The denoiser of the domain to arrive in; it may be the same.")]
    positive_a: Annotated[Conditioning, Field(description="What the picture shows.")]
    positive_b: Annotated[Conditioning, Field(description="What it is to show.")]
    negative: Annotated[Conditioning | None, Field(description="Needed for guidance only.")] = None
    latent: Annotated[Latent, Field(description="The picture, encoded.")]
    steps: Annotated[Steps, Field(description="Steps up, and as many down.")] = 100
    scheduler: SchedulerName = "normal"
    match: Match = "logsnr"
    cfg: Annotated[Scale, Field(description="Guidance on the way down; 1 is none.")] = 1.0
    refine: Refine = 0
    cycle: Annotated[bool, Field(description="Also go back to a, and report how near that comes; twice the work.")] = False
    vae: Annotated[VAE | None, Field(description="Lets the cycle be measured on pictures.")] = None

    class Out(NamedTuple):
        latent: Annotated[Latent, Field(description="In b's domain.")]
        noise: Annotated[Latent, Field(description="What both share, scaled to variance one, to look at.")]
        back: Annotated[Latent, Field(description="After the way back; the first latent itself without a cycle.")]
        trajectory: Annotated[Trajectory, Field(description="The way up.")]
        metrics: Annotated[Metrics, Field(description="mean and std of the noise; cycle_rmse in model scale, cycle_psnr of pictures.")]
        report: Annotated[str, Field(description="The figures as text.")]

    def run(self, ctx: Context) -> Out:
        form = family(self.model_a.weights.family).latent
        other = family(self.model_b.weights.family).latent
        if (form.name, form.scale) != (other.name, other.scale):
            raise NodeError(f"model_b: a model of {form.name} latents is wanted as model_a is, one of {other.name} latents given")
        x0 = _start(self.model_a, self.latent, ctx)
        a, b = self._ends()
        n = 2 if self.cycle else 1

        def heard(part: int) -> Callable[[int, int, Tensor], None]:
            return lambda i, total, seen: ctx.step(part * total + i, n * total, lambda: jpeg(seen, self.model_b.weights))

        states, x_b = cross(a, b, x0, self.refine, ctx.device, heard(0))
        mean, std = gaussianity(states[-1], a.levels.sigmas[0])
        found, back = {"mean": mean, "std": std}, self.latent
        if self.cycle:
            x_a = cross(b, a, x_b, self.refine, ctx.device, heard(1))[1]
            back = unscaled(x_a, self.latent, form)
            found["cycle_rmse"] = (x_a - x0).square().mean().sqrt().item()
            if self.vae is not None:
                before, after = (decode(self.vae, latent, ctx.device).pixels for latent in (self.latent, back))
                found["cycle_psnr"] = psnr(before, after)
        report = "\n".join(f"{name:10} {value:8.4f}" for name, value in found.items())
        ctx.show(text=report)
        shared = states[-1] / math.sqrt(1 + a.levels.sigmas[0] ** 2)
        path = Trajectory(torch.stack(states), torch.tensor(a.levels.sigmas[::-1]), format=form.name)
        results = unscaled(x_b, self.latent, form), unscaled(shared, self.latent, form), back
        return self.Out(*results, path, Metrics(tuple(found.items())), report)

    def _ends(self) -> tuple[End, End]:
        tables = self.model_a.process.table(), self.model_b.process.table()
        sigmas_a, sigmas_b = (sigmas_for(table, self.scheduler, self.steps) for table in tables)
        if self.match == "logsnr":
            sigmas_a = sigmas_b = same_noise(sigmas_a, tables[1])  # what b does not know a does not walk
        up_a, up_b = Conditional(self.positive_a), Conditional(self.positive_b)
        down_b = _down(self.positive_b, self.negative, self.cfg)
        return End(self.model_a, up_a, up_a, sigmas_a), End(self.model_b, up_b, down_b, sigmas_b)


def _down(positive: Conditioning, negative: Conditioning | None, cfg: float) -> Guidance:
    if cfg == 1:
        return Conditional(positive)
    if negative is None:
        raise NodeError(f"negative: a conditioning is wanted for a cfg of {cfg:g}, none given")
    return CFG(positive, negative, cfg)


def _descending(sigmas: Tensor) -> Tensor:
    if len(sigmas) < 2 or not bool((sigmas.diff() <= 0).all()) or sigmas[0] == sigmas[-1]:
        raise NodeError(f"sigmas: at least two falling levels are wanted, {[round(s, 4) for s in sigmas.tolist()]} given")
    return sigmas


def _start(model: Model, latent: Latent, ctx: Context) -> Tensor:
    form = family(model.weights.family).latent
    check(latent, form)
    x: Tensor = latent.x.to(ctx.device.torch, torch.float32) * form.scale
    return x
