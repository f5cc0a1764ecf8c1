"""DDIM inversion (Song et al. 2021; Dhariwal & Nichol 2021): the deterministic sampler run backwards, from a picture into its noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from diffusion.family import family
from diffusion.guidance import CFG, Conditional
from diffusion.preview import jpeg
from diffusion.sample import check, unscaled
from diffusion.samplers import Denoiser, NoiseSource, Stepper, ddim_step, eps_of
from diffusion.schedule import Schedule, Step
from diffusion.session import open_session
from diffusion.spacing import sigmas_for
from diffusion.trajectory import check_rows, walk
from diffusion.values import Conditioning, Latent, Model, Trajectory
from graph_engine.errors import NodeError
from graph_engine.node import Node
from nodes.params import Scale, SchedulerName, Steps, number

if TYPE_CHECKING:
    from graph_engine.context import Context


def ddim_inversion(iterations: int = 0, damping: float = 0.0) -> Stepper:
    """One step up, s → t: x_t = √(ᾱ_t/ᾱ_s)·x_s + (…)·ε(x_s, t), the network told the level it goes to.

    The step down from x_t asks for ε(x_t, t) instead. Each fixed-point iteration x_t ← F(x_s, ε(x_t, t)) comes nearer to the x_t from which
    the step down leads back to x_s exactly (Pan et al. 2023, AIDI, sec. 3.1); `damping` keeps a share of the x_t before, where it would
    swing.
    """

    def step(denoise: Denoiser, x: Tensor, s: Step, noise: NoiseSource) -> tuple[Tensor, Tensor]:
        eps, x_s = eps_of(denoise), x * s.alpha_t
        x_t, x0 = ddim_step(eps, x_s, s)
        for _ in range(iterations):
            anew = s.a * x_s + s.b * eps(x_t, s.sigma_net)
            x_t = torch.lerp(anew, x_t, damping)
        return x_t / s.alpha_u, x0

    return step


# node


class DDIMInversion(Node, category="editing/inversion", title="DDIM Inversion", aliases=("invert", "ddim inverse", "aidi", "fixed point")):
    """Walk a picture into the noise that DDIM denoises into it, and keep the way (Song et al. 2021, eq. 12 run in reverse)."""

    model: Annotated[Model, Field(description="The denoiser; its patches have their say.")]
    samples: Annotated[Latent, Field(description="The picture, encoded.")]
    positive: Annotated[Conditioning, Field(description="What the picture shows.")]
    negative: Annotated[Conditioning | None, Field(description="Needed for guidance only.")] = None
    steps: Steps = 50
    scheduler: SchedulerName = "normal"
    cfg: Annotated[Scale, Field(description="1 is none, and right for nearly everything: guided inversion inflates the noise.")] = 1.0
    iterations: Annotated[
        int,
        number(0, 100, 1, "Fixed-point iterations of each step; each costs an evaluation and makes the way back truer."),
    ] = 0
    damping: Annotated[float, number(0, 0.99, 0.01, "Share of the iterate before that each one keeps; 0.5 calms guided inversion.")] = 0.0

    class Out(NamedTuple):
        trajectory: Annotated[Trajectory, Field(description="The state at each level.")]
        latent: Annotated[Latent, Field(description="The noise: the state at the first level, to sample from without adding noise.")]

    def run(self, ctx: Context) -> Out:
        form, table = family(self.model.weights.family).latent, self.model.process.table()
        check(self.samples, form, "samples")
        check_rows(self.positive, len(self.samples.x), "positive")
        check_rows(self.negative, len(self.samples.x), "negative")
        if self.cfg != 1 and self.negative is None:
            raise NodeError(f"negative: a conditioning is wanted for a cfg of {self.cfg:g}, none given")
        guidance = Conditional(self.positive) if self.negative is None else CFG(self.positive, self.negative, self.cfg)
        levels = Schedule(table, sigmas_for(table, self.scheduler, self.steps)).reversed()
        x0 = self.samples.x.to(ctx.device.torch, torch.float32) * form.scale
        with open_session(self.model, guidance, ctx.device, sigmas=levels.sigmas, shape=x0.shape) as net:
            step = ddim_inversion(self.iterations, self.damping)
            states = walk(net, step, x0, levels, lambda i, n, seen: ctx.step(i, n, lambda: jpeg(seen, self.model.weights)))
        path = Trajectory(torch.stack(states), torch.tensor(levels.sigmas), format=form.name, evaluations=net.evaluations)
        return self.Out(path, unscaled(states[-1], self.samples, form))
