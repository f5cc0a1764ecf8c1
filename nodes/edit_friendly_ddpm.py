"""Edit-friendly DDPM inversion (Huberman-Spiegelglas et al. 2024): noise maps with which the stochastic sampler makes a given picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from diffusion.family import family
from diffusion.guidance import CFG, Conditional, Guidance
from diffusion.noise import prepare_noise
from diffusion.preview import jpeg
from diffusion.sample import check, unscaled
from diffusion.samplers import Net, OnStep, silent
from diffusion.schedule import Schedule
from diffusion.session import open_session
from diffusion.spacing import sigmas_for
from diffusion.trajectory import check_rows, posterior
from diffusion.values import Conditioning, Latent, Model, Trajectory
from graph_engine.errors import NodeError
from graph_engine.node import Node
from nodes.params import Scale, SchedulerName, Seed, Steps, number

if TYPE_CHECKING:
    from graph_engine.context import Context


@torch.no_grad()
def edit_friendly(net: Net, x0: Tensor, levels: Schedule, draws: Tensor, eta: float, on_step: OnStep = silent) -> tuple[Tensor, Tensor]:
    """(states [K + 1, b, c, h, w], z [K, b, c, h, w], both clean end first) of x0 [b, c, h, w] over falling levels (alg. 1).

    x_k = x_0 + σ_k·ε̃_k, each ε̃_k = draws[k − 1] independent of the others; z_k = (x_{k−1} − μ_k(x_k)) / σ_k; then x_{k−1} = μ_k + σ_k·z_k
    anew, so that rounding does not add up. The remainder of the last step is kept as a noise, too: the published code sets it to zero
    and so does not give the picture back.
    """
    states, noises = [x0, *(x0 + sigma * draw for sigma, draw in zip(levels.sigmas[-2::-1], draws, strict=True))], list[Tensor]()
    x = states[-1]
    for s in levels:
        k = s.count - s.index
        x = net.before(x, s)
        mean, unit = posterior(x, seen := net.denoise(x, s.sigma), s, eta)
        z = (states[k - 1] - mean) / unit
        states[k], x = x, net.after(mean + unit * z, seen, s)
        noises.append(z)
        on_step(s.index + 1, s.count, seen)
    states[0] = x
    return torch.stack(states), torch.stack(noises[::-1])


# node


class EditFriendlyInversion(
    Node, category="editing/inversion", title="Edit-Friendly DDPM Inversion", aliases=("ddpm inversion", "noise maps")
):
    """Find the noise maps with which DDPM makes a picture exactly, at any guidance (Huberman-Spiegelglas et al. 2024, alg. 1).

    They are larger than normal noise and hold the picture's structure: replayed under another prompt, from a level below the noisiest,
    they edit it.
    """

    model: Annotated[Model, Field(description="The denoiser; its patches have their say.")]
    samples: Annotated[Latent, Field(description="The picture, encoded.")]
    positive: Annotated[Conditioning, Field(description="What the picture shows.")]
    negative: Annotated[Conditioning | None, Field(description="Needed for guidance only.")] = None
    steps: Steps = 100
    scheduler: SchedulerName = "normal"
    cfg: Annotated[Scale, Field(description="Guidance under which the picture is explained; replays may use more.")] = 3.5
    eta: Annotated[float, number(0.01, 1, 0.01, "How stochastic the sampler is: 1 is DDPM.")] = 1.0
    seed: Seed = 0

    class Out(NamedTuple):
        trajectory: Annotated[Trajectory, Field(description="The states, with the noise maps.")]
        latent: Annotated[Latent, Field(description="The state at the noisiest level.")]

    def run(self, ctx: Context) -> Out:
        form, table = family(self.model.weights.family).latent, self.model.process.table()
        check(self.samples, form, "samples")
        check_rows(self.positive, len(self.samples.x), "positive")
        check_rows(self.negative, len(self.samples.x), "negative")
        guidance: Guidance = Conditional(self.positive)
        if self.cfg != 1:
            if self.negative is None:
                raise NodeError(f"negative: a conditioning is wanted for a cfg of {self.cfg:g}, none given")
            guidance = CFG(self.positive, self.negative, self.cfg)
        levels = Schedule(table, sigmas_for(table, self.scheduler, self.steps))
        x0 = self.samples.x.to(ctx.device.torch, torch.float32) * form.scale
        draws = prepare_noise((len(levels), *x0.shape[1:]), self.seed).to(x0)  # every picture meets the same, so none sees its batch mates
        with open_session(self.model, guidance, ctx.device, sigmas=levels.sigmas, shape=x0.shape) as net:
            states, z = edit_friendly(
                net, x0, levels, draws, self.eta, lambda i, n, seen: ctx.step(i, n, lambda: jpeg(seen, self.model.weights))
            )
        sigmas = torch.tensor(levels.sigmas[::-1])
        path = Trajectory(states, sigmas, noises=z, format=form.name, eta=self.eta, evaluations=net.evaluations)
        return self.Out(path, unscaled(states[-1], self.samples, form))
