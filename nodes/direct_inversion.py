"""Direct inversion, PnP inversion (Ju et al. 2024): the source branch is put back on its stored path, the target is left alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple

from pydantic import Field

from diffusion.family import family
from diffusion.pair import Pinned
from diffusion.trajectory import check_path, descent, level
from diffusion.values import Latent, Model, Sigmas, Trajectory
from graph_engine.node import Node
from nodes.params import Unit

if TYPE_CHECKING:
    from graph_engine.context import Context


class DirectInversion(Node, category="editing/inversion", title="Direct Inversion", aliases=("pnp inversion", "source branch", "offsets")):
    """Sample with the row "source" (or the first one) of a batch held on a picture's trajectory at any guidance (Ju et al. 2024, alg. 1).

    The paper stores o_k = x*_{k−1} − step(x*_k) and adds it to the source after the step; that sum is x*_{k−1}, so the trajectory itself is
    written there, bit for bit and without a second pass. Targets, and with them what can be edited, are untouched.
    """

    model: Annotated[Model, Field(description="What it is to be sampled with: plain, or with patches such as Prompt-to-Prompt.")]
    trajectory: Annotated[Trajectory, Field(description="The source picture's way into noise, from DDIM Inversion without guidance.")]
    start: Annotated[Unit, Field(description="From which level to sample, as a share of the steps; 1 is the noisiest.")] = 1.0

    class Out(NamedTuple):
        model: Model
        latent: Annotated[Latent, Field(description="The state at that level, for Source and Target; sample without adding noise.")]
        sigmas: Annotated[Sigmas, Field(description="The trajectory's levels from there down.")]

    def run(self, ctx: Context) -> Out:
        form = family(self.model.weights.family).latent
        check_path(self.trajectory, form)
        x, sigmas = descent(self.trajectory, level(self.trajectory, self.start))
        pinned = self.model.patched(Pinned(self.trajectory))
        return self.Out(pinned, Latent(x / form.scale, format=form.name), Sigmas(sigmas))
