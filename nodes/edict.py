"""EDICT (Wallace et al. 2023): two coupled copies tell each other's noise in turn, so that every step can be undone exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from diffusion.family import family
from diffusion.guidance import CFG, Conditional, Guidance
from diffusion.preview import jpeg
from diffusion.sample import check, unscaled
from diffusion.samplers import OnStep, silent
from diffusion.schedule import Schedule, Step
from diffusion.session import Net, open_session
from diffusion.spacing import sigmas_for
from diffusion.trajectory import check_path, check_rows, descent, level, rows_of
from diffusion.values import Conditioning, Latent, Model, Trajectory
from graph_engine.errors import NodeError
from graph_engine.node import Node
from nodes.params import Scale, SchedulerName, Steps, Unit, number

if TYPE_CHECKING:
    from graph_engine.context import Context

Eps = Callable[[Tensor, float], Tensor]


def edict_step(x: Tensor, y: Tensor, eps: Eps, s: Step, p: float) -> tuple[Tensor, Tensor]:
    """One step down of the coupled pair in VP form (sec. 4.1, eq. 14): affine updates in turn, then mixing."""
    x = s.a * x + s.b * eps(y, s.sigma_net)
    y = s.a * y + s.b * eps(x, s.sigma_net)
    x = p * x + (1 - p) * y
    return x, p * y + (1 - p) * x


def edict_step_back(x: Tensor, y: Tensor, eps: Eps, s: Step, p: float) -> tuple[Tensor, Tensor]:
    """What undoes `edict_step`, s being the step up over the same two levels (eq. 15): the mixing first, then the updates, last one first.

    Of the step down, a = 1 / s.a and b = −s.b / s.a.
    """
    y = (y - (1 - p) * x) / p
    x = (x - (1 - p) * y) / p
    y = s.a * y + s.b * eps(x, s.sigma_net)
    return s.a * x + s.b * eps(y, s.sigma_net), y


@torch.no_grad()
def coupled_walk(
    net: Net, x: Tensor, y: Tensor, levels: Schedule, first: int, p: float, on_step: OnStep = silent
) -> tuple[list[Tensor], list[Tensor]]:
    """The states of both copies, in VE form, on their way through levels up or down, from the level with index `first`.

    Which copy goes first alternates with the level, whichever way and from wherever one walks (sec. 4.2). States keep their own
    precision; the network is asked in single precision, the same question both ways, and its answer is not rounded any further.
    """
    xs, ys = [x], [y]
    eps: Eps = lambda x, sigma: net.eps(x.float(), sigma).to(x.dtype)  # noqa: E731
    for s in levels:
        x, y = net.before(x, s) * s.alpha_t, net.before(y, s) * s.alpha_t
        upper = first + s.index + 1 if s.ascending else first - s.index
        step = edict_step_back if s.ascending else edict_step
        if upper % 2:
            x, y = step(x, y, eps, s, p)
        else:
            y, x = step(y, x, eps, s, p)
        x, y = x / s.alpha_u, y / s.alpha_u
        x, y = net.after(x, x, s), net.after(y, y, s)
        xs.append(x)
        ys.append(y)
        on_step(s.index + 1, s.count, x * s.alpha_u)
    return xs, ys


# nodes


class EDICTInversion(Node, category="editing/inversion", title="EDICT Inversion", aliases=("coupled transformations", "exact inversion")):
    """Walk a picture into noise as a coupled pair, from which EDICT Decode leads back exactly (Wallace et al. 2023, sec. 4)."""

    model: Annotated[Model, Field(description="The denoiser; its patches have their say.")]
    samples: Annotated[Latent, Field(description="The picture, encoded.")]
    positive: Annotated[Conditioning, Field(description="What the picture shows.")]
    negative: Annotated[Conditioning | None, Field(description="Needed for guidance only.")] = None
    steps: Steps = 50
    scheduler: SchedulerName = "normal"
    cfg: Annotated[Scale, Field(description="Decode with the same to come back to the picture.")] = 3.0
    mixing: Annotated[float, number(0.5, 1, 0.01, "p: how much each copy keeps of itself; 1 does not mix, and the copies part.")] = 0.93
    precision: Annotated[
        Literal["float64", "float32"],
        Field(description="Of the states, not of the network: the way back is exact to its rounding."),
    ] = "float64"

    class Out(NamedTuple):
        trajectory: Annotated[Trajectory, Field(description="The states of both copies.")]
        latent: Annotated[Latent, Field(description="The first copy at the noisiest level.")]

    def run(self, ctx: Context) -> Out:
        form, table = family(self.model.weights.family).latent, self.model.process.table()
        check(self.samples, form, "samples")
        check_rows(self.positive, len(self.samples.x), "positive")
        check_rows(self.negative, len(self.samples.x), "negative")
        levels = Schedule(table, sigmas_for(table, self.scheduler, self.steps)).reversed()
        x0 = self.samples.x.to(ctx.device.torch, getattr(torch, self.precision)) * form.scale
        guidance = _guidance(self.positive, self.negative, self.cfg)
        with open_session(self.model, guidance, ctx.device, sigmas=levels.sigmas, shape=x0.shape) as net:
            xs, ys = coupled_walk(net, x0, x0, levels, 0, self.mixing, _reported(ctx, self.model))
        states = (torch.stack(copies) for copies in (xs, ys))
        sigmas = torch.tensor(levels.sigmas)
        x, y = states
        path = Trajectory(x, sigmas, format=form.name, coupled=y, mixing=self.mixing, evaluations=net.evaluations)
        return self.Out(path, unscaled(xs[-1].float(), self.samples, form))


class EDICTDecode(Node, category="editing/inversion", title="EDICT Decode", aliases=("coupled transformations", "exact inversion")):
    """Walk a coupled pair back down: to the picture under the prompt and guidance of the inversion, else to an edit of it."""

    model: Annotated[Model, Field(description="The denoiser, with whatever patches are to act; they see the copies one after the other.")]
    trajectory: Annotated[Trajectory, Field(description="From EDICT Inversion.")]
    positive: Annotated[Conditioning, Field(description="What the picture shows, or is to show.")]
    negative: Annotated[Conditioning | None, Field(description="Needed for guidance only.")] = None
    cfg: Scale = 3.0
    start: Annotated[Unit, Field(description="From which level, as a share of the steps: 1 is the noisiest; less changes less.")] = 0.8

    class Out(NamedTuple):
        latent: Annotated[Latent, Field(description="The mean of both copies.")]
        trajectory: Annotated[Trajectory, Field(description="The way down, clean end first.")]

    def run(self, ctx: Context) -> Out:
        form, path = family(self.model.weights.family).latent, self.trajectory
        check_path(path, form)
        if path.coupled is None:
            raise NodeError("trajectory: a coupled pair from EDICT Inversion is wanted, one path given; use Replay Trajectory")
        k, rows = level(path, self.start), rows_of(self.positive)
        x, sigmas = descent(path, k, rows)
        y = path.coupled[k].expand_as(x)
        x, y = x.to(ctx.device.torch), y.to(ctx.device.torch)
        levels = Schedule(self.model.process.table(), sigmas)
        guidance = _guidance(self.positive, self.negative, self.cfg)
        with open_session(self.model, guidance, ctx.device, sigmas=levels.sigmas, shape=x.shape) as net:
            xs, ys = coupled_walk(net, x, y, levels, k, path.mixing, _reported(ctx, self.model))
        copies = torch.stack(xs[::-1]), torch.stack(ys[::-1])
        taken = Trajectory(copies[0], sigmas.flip(0), format=form.name, coupled=copies[1], mixing=path.mixing, evaluations=net.evaluations)
        return self.Out(Latent(((xs[-1] + ys[-1]) / 2).float() / form.scale, format=form.name), taken)


def _guidance(positive: Conditioning, negative: Conditioning | None, cfg: float) -> Guidance:
    if cfg == 1:
        return Conditional(positive)
    if negative is None:
        raise NodeError(f"negative: a conditioning is wanted for a cfg of {cfg:g}, none given")
    return CFG(positive, negative, cfg)


def _reported(ctx: Context, model: Model) -> OnStep:
    return lambda i, n, seen: ctx.step(i, n, lambda: jpeg(seen.float(), model.weights))
