"""A trajectory as pictures, from the clean end to the noise."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, NamedTuple

import torch
from pydantic import Field

from diffusion.family import family
from diffusion.trajectory import check_path, picked
from diffusion.vae import decode
from diffusion.values import VAE, Image, Latent, Trajectory
from graph_engine.node import Node
from nodes.params import number

if TYPE_CHECKING:
    from graph_engine.context import Context


class TrajectoryStrip(Node, category="editing/inversion", title="Trajectory Strip", aliases=("inspect inversion", "film", "contact sheet")):
    """Decode states of a trajectory, evenly over its steps, and lay them side by side: clean on the left, noise on the right.

    States are shown in variance-preserving form, as the network sees them; each picture of a batch has a row.
    """

    trajectory: Trajectory
    vae: Annotated[VAE, Field(description="The VAE that the model came with.")]
    count: Annotated[int, number(1, 64, 1, "How many states; the ends are among them.")] = 8

    class Out(NamedTuple):
        strip: Annotated[Image, Field(description="All in one picture.")]
        frames: Annotated[Image, Field(description="One by one, clean first.")]

    def run(self, ctx: Context) -> Out:
        path, form = self.trajectory, family(self.vae.weights.family).latent
        check_path(path, form)
        shown = []
        levels = picked(path.steps, self.count)
        for i, k in enumerate(levels, 1):
            x = path.latents[k].float() / math.sqrt(1 + path.sigmas[k].item() ** 2)
            shown.append(decode(self.vae, Latent(x / form.scale, format=form.name), ctx.device).pixels)
            ctx.step(i, len(levels))
        frames = torch.stack(shown)  # [n, b, h, w, 3]
        strip = frames.permute(1, 2, 0, 3, 4).flatten(2, 3).flatten(0, 1)[None]
        return self.Out(Image(strip), Image(frames.flatten(0, 1)))
