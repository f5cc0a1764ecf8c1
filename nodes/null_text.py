"""Null-text inversion (Mokady et al. 2023): the empty prompt's embedding, tuned step by step until guidance stays on a picture's path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from diffusion.family import family
from diffusion.guidance import CFG
from diffusion.patch import GuidancePatch
from diffusion.schedule import Schedule, Step
from diffusion.session import Net, open_session
from diffusion.trajectory import check_path, descent, only_entry, rows_of, with_uncond
from diffusion.values import Cond, Conditioning, Model, Trajectory
from graph_engine.errors import NodeError
from graph_engine.node import Node
from nodes.params import Scale, number

if TYPE_CHECKING:
    from graph_engine.context import Context


def learning_rate(rate: float, s: Step) -> float:
    """The rate of one step of the run: it falls to a little over a half. The authors' 1 − i/100 is for 50 steps, and below 0 after 100."""
    return rate * (1 - s.index / (2 * s.count))


def good_enough(tolerance: float, slack: float, s: Step) -> float:
    """The loss at which a step is left alone: looser towards the end. The authors' 1e-5 + 2e-5·i over 50 steps is a slack of 1e-3."""
    return tolerance + slack * s.index / s.count


def tuned_step(
    net: Net,
    x: Tensor,
    target: Tensor,
    s: Step,
    entry: Cond,
    scale: float,
    inner: int,
    rate: float,
    enough: float,
    check: Callable[[], None],
) -> tuple[Tensor, Tensor, Tensor]:
    """(∅ [b, n, d], the state it leads to, the loss [b]): min ‖step(x̄_t; ∅, C) − x*_{t−1}‖² by Adam (alg. 1, lines 6 to 9).

    Each picture of a batch is tuned by itself: it stops by itself, and what is kept is its best so far, the start among it.
    """
    with torch.no_grad():
        d_cond = net.predict("positive", x, s.sigma)
    null = entry.embeds.expand(len(x), *entry.embeds.shape[1:]).detach().to(net.device, torch.float32).clone().requires_grad_()
    adam = torch.optim.Adam([null], lr=rate)
    best = torch.full((len(x),), torch.inf, device=x.device)
    kept, arrived = null.detach().clone(), x
    for j in range(inner + 1):
        check()
        d_null = net.predict(Conditioning((replace(entry, embeds=null),)), x, s.sigma, "negative")
        d = d_null + scale * (d_cond - d_null)
        reached = d + (x - d) * (s.sigma_next / s.sigma)  # DDIM, in VE form
        losses = ((reached - target) * s.alpha_u).square().mean(dim=(1, 2, 3))  # of VP states, as published
        better, going = losses.detach() < best, best >= enough
        won = (better & going)[:, None, None]
        kept = torch.where(won, null.detach(), kept)
        arrived = torch.where(won[..., None], reached.detach(), arrived)
        best = torch.where(better & going, losses.detach(), best)
        if j == inner or bool((best < enough).all()):
            break
        (null.grad,) = torch.autograd.grad(losses.sum(), null)
        adam.step()
    return kept, arrived, best


def null_text(
    net: Net,
    path: Trajectory,
    entry: Cond,
    scale: float,
    inner: int,
    rate: float,
    tolerance: float,
    slack: float,
    on_step: Callable[[int, int], None],
) -> tuple[Tensor, Tensor]:
    """(∅_t of every step, noisiest first [K, b, n, d], the losses [K, b]) around the pivot x* = path (alg. 1).

    x̄ starts at x*_T and goes on with each tuned ∅_t, from which the next one starts. Gradients are enabled in here only.
    """
    x, sigmas = descent(path, path.steps)
    x = x.to(net.device, torch.float32)
    nulls, losses = [], []
    with torch.enable_grad():
        for s in Schedule(net.table, sigmas):
            x, target = net.before(x, s), path.latents[path.steps - s.index - 1].to(x)
            rate_here, enough = learning_rate(rate, s), good_enough(tolerance, slack, s)
            null, arrived, loss = tuned_step(net, x, target, s, entry, scale, inner, rate_here, enough, partial(on_step, s.index, s.count))
            share = s.sigma_next / s.sigma  # of what was there, the rest is the estimate of x_0
            x = net.after(arrived, (arrived - share * x) / (1 - share), s)
            entry = replace(entry, embeds=null)
            nulls.append(null)
            losses.append(loss)
            on_step(s.index + 1, s.count)
    return torch.stack(nulls), torch.stack(losses)


# node


class NullTextInversion(Node, category="editing/inversion", title="Null-Text Inversion", aliases=("null-text optimisation", "pivotal")):
    """Tune the empty prompt's embedding of every step so that guided sampling follows a trajectory (Mokady et al. 2023, alg. 1)."""

    model: Annotated[Model, Field(description="The denoiser; it stays as it is.")]
    trajectory: Annotated[Trajectory, Field(description="The pivot: from DDIM Inversion without guidance, under the same prompt.")]
    positive: Annotated[Conditioning, Field(description="What the picture shows: the prompt of the inversion.")]
    negative: Annotated[Conditioning, Field(description="Where the embeddings start: an encoded empty prompt, one entry.")]
    cfg: Annotated[Scale, Field(description="The guidance to make up for; replay and edit with the same. 1 needs none.")] = 7.5
    inner_steps: Annotated[int, number(0, 1000, 1, "Optimisation steps for each sampling step, at most.")] = 10
    learning_rate: Annotated[float, number(0, 10, 0.001, "Of Adam; it falls to half of this over the run.", round=0.000001)] = 0.01
    tolerance: Annotated[float, number(0, 1, 0.00001, "Loss at which the first step is left alone …", round=0.00000001)] = 1e-5
    slack: Annotated[float, number(0, 1, 0.0001, "… and how much more is allowed by the last one.", round=0.00000001)] = 1e-3

    class Out(NamedTuple):
        trajectory: Annotated[Trajectory, Field(description="The same way, with the embedding of each step.")]
        negative: Annotated[Conditioning, Field(description="The embeddings for any other sampler that walks the same levels.")]
        loss: Annotated[float, Field(description="The mean over steps and pictures of what is left.")]

    def run(self, ctx: Context) -> Out:
        path, entry = self.trajectory, only_entry(self.negative, "negative")
        check_path(path, family(self.model.weights.family).latent)
        if path.coupled is not None or path.noises is not None:
            other = "one with noises" if path.coupled is None else "a coupled pair"
            raise NodeError(f"trajectory: one from DDIM Inversion is wanted, as DDIM is what is made to follow it; {other} given")
        pictures = path.latents.shape[1]
        if len(entry.embeds) not in (1, pictures) or rows_of(self.positive) not in (1, pictures):
            given = len(entry.embeds), rows_of(self.positive)
            raise NodeError(f"negative and positive: one prompt or {pictures} as the trajectory has pictures are wanted, {given} given")
        changed = [type(patch).__name__ for patch in self.model.patches if isinstance(patch, GuidancePatch)]
        if changed:
            raise NodeError(f"model: one with plain guidance is wanted, as that is what is made up for; {', '.join(changed)} given")
        if self.cfg == 1:  # the empty prompt has no say
            uncond, left = entry.embeds.expand(path.steps, *entry.embeds.shape), torch.zeros(1)
            return self._with(uncond, left, path.evaluations)
        guidance, sigmas = CFG(self.positive, self.negative, self.cfg), path.sigmas.flip(0).tolist()
        with open_session(self.model, guidance, ctx.device, sigmas=sigmas, shape=path.latents.shape[1:]) as net:
            settings = self.cfg, self.inner_steps, self.learning_rate, self.tolerance, self.slack
            uncond, left = null_text(net, path, entry, *settings, ctx.step)
            asked = path.evaluations + net.evaluations
        return self._with(uncond, left, asked)

    def _with(self, uncond: Tensor, left: Tensor, evaluations: int) -> Out:
        path = replace(self.trajectory, uncond=uncond, pooled=None, evaluations=evaluations)
        return self.Out(path, with_uncond(self.negative, path, path.steps), left.mean().item())
