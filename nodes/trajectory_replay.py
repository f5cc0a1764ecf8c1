"""From a trajectory's noisy end back down: the inverted picture again, or an edit of it by another prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple

from pydantic import Field

from diffusion.family import family
from diffusion.guidance import CFG, Conditional, Guidance
from diffusion.preview import jpeg
from diffusion.trajectory import check_path, descent, level, replayed, rows_of, with_uncond
from diffusion.values import Conditioning, Latent, Model, Trajectory
from graph_engine.errors import NodeError
from graph_engine.node import Node
from nodes.params import Scale, Unit

if TYPE_CHECKING:
    from graph_engine.context import Context


class ReplayTrajectory(Node, category="editing/inversion", title="Replay Trajectory", aliases=("ddim decode", "reconstruct")):
    """Denoise from a trajectory's state over its own levels, with what the inversion stored: embeddings per step, or noises.

    With the prompt and guidance of the inversion this reconstructs the picture; with another prompt it edits it. A batch of prompts, as
    Source and Target makes, gives each a row that starts from the same state.
    """

    model: Annotated[Model, Field(description="The denoiser, with whatever patches are to act.")]
    trajectory: Annotated[Trajectory, Field(description="From an inversion.")]
    positive: Annotated[Conditioning, Field(description="What the picture shows, or is to show.")]
    negative: Annotated[
        Conditioning | None,
        Field(description="Needed for guidance; a trajectory's own embeddings take its place step by step."),
    ] = None
    cfg: Annotated[Scale, Field(description="1 is no guidance; an optimised trajectory wants the scale it was optimised for.")] = 1.0
    start: Annotated[Unit, Field(description="From which level, as a share of the steps: 1 is the noisiest; less changes less.")] = 1.0

    class Out(NamedTuple):
        latent: Latent
        trajectory: Annotated[Trajectory, Field(description="The way down, clean end first.")]

    def run(self, ctx: Context) -> Out:
        form, path = family(self.model.weights.family).latent, self.trajectory
        check_path(path, form)
        if path.coupled is not None:
            raise NodeError("trajectory: that of one path is wanted, a coupled pair given; use EDICT Decode")
        k = level(path, self.start)
        guidance: Guidance = Conditional(self.positive)
        if self.cfg != 1:
            if self.negative is None:
                raise NodeError(f"negative: a conditioning is wanted for a cfg of {self.cfg:g}, none given")
            guidance = CFG(self.positive, with_uncond(self.negative, path, k), self.cfg)
        x, _ = descent(path, k, rows_of(self.positive))
        latent, taken = replayed(
            self.model, guidance, path, k, x, ctx.device, lambda i, n, x0: ctx.step(i, n, lambda: jpeg(x0, self.model.weights))
        )
        return self.Out(latent, taken)
