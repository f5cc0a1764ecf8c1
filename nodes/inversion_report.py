"""How well an inversion leads back to its picture."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, NamedTuple

from pydantic import Field
from torch import Tensor

from diffusion.compare import psnr
from diffusion.family import family
from diffusion.sample import check
from diffusion.trajectory import distances, picked
from diffusion.vae import decode
from diffusion.values import VAE, Image, Latent, Metrics, Trajectory
from graph_engine.errors import NodeError
from graph_engine.node import Node

if TYPE_CHECKING:
    from graph_engine.context import Context

ROWS = 11  # levels in the table
BAR = 30  # characters


def table(errors: Tensor, sigmas: Tensor) -> str:
    """Errors [levels] with bars, at a few levels from noise to clean."""
    most = max(errors.max().item(), 1e-30)
    rows = ["level   sigma     error"]
    for k in reversed(picked(len(errors) - 1, ROWS)):
        rows.append(f"{k:5} {sigmas[k].item():7.3f} {errors[k].item():9.2e} " + "▪" * round(BAR * errors[k].item() / most))
    return "\n".join(row.rstrip() for row in rows)


class InversionReport(Node, category="editing/inversion", title="Inversion Report", output=True, aliases=("reconstruction", "nfe", "psnr")):
    """Compare a trajectory with the walk back: the distance at every level, the picture against what the autoencoder alone keeps, the cost.

    Distances are root mean squares in variance-preserving form, where states have a variance of about one. Evaluations count each
    branch of the guidance, for the whole batch once.
    """

    trajectory: Annotated[Trajectory, Field(description="From the inversion.")]
    replay: Annotated[Trajectory, Field(description="The way back, from Replay Trajectory or EDICT Decode.")]
    vae: Annotated[VAE | None, Field(description="Lets pictures be compared.")] = None
    image: Annotated[Image | None, Field(description="The picture itself, which shows what the autoencoder loses.")] = None

    class Out(NamedTuple):
        metrics: Metrics
        psnr: Annotated[
            float, Field(description="dB of the decoded replay: against the picture, or without one against the autoencoder's.")
        ]
        ceiling: Annotated[float, Field(description="dB of the autoencoder alone against the picture; nan without one.")]
        to_ceiling: Annotated[
            float, Field(description="dB of the decoded replay against the autoencoder's picture: the inversion's share.")
        ]
        errors: Annotated[list[float], Field(description="The distance at each level, clean end first.")]
        report: str

    def run(self, ctx: Context) -> Out:
        formats = self.trajectory.format, self.replay.format
        if None not in formats and formats[0] != formats[1]:
            raise NodeError(f"replay: one of {formats[0]} latents is wanted as trajectory is, {formats[1]} given")
        errors = distances(self.trajectory, self.replay)
        found = {"error_clean": errors[0].item(), "error_worst": errors.max().item()}
        found |= {"evaluations_inversion": float(self.trajectory.evaluations), "evaluations_replay": float(self.replay.evaluations)}
        found |= self._pictures(ctx)
        lines = [table(errors, self.trajectory.sigmas)]
        lines += [f"{name:22} {value:10.4g}" for name, value in found.items()]
        report = "\n".join(lines)
        ctx.show(text=report)
        metrics = Metrics(tuple(found.items()))
        return self.Out(metrics, found["psnr"], found["ceiling"], found["to_ceiling"], errors.tolist(), report)

    def _pictures(self, ctx: Context) -> dict[str, float]:
        if self.vae is None:
            if self.image is not None:
                raise NodeError("vae: one is wanted to compare pictures, none given")
            return dict.fromkeys(("psnr", "ceiling", "to_ceiling"), math.nan)
        form, rows = family(self.vae.weights.family).latent, self.trajectory.latents.shape[1]
        shown = []
        for x in (self.trajectory.latents[0], self.replay.latents[0, :rows]):
            check(Latent(x, format=self.trajectory.format), form, "trajectory")
            shown.append(decode(self.vae, Latent(x.float() / form.scale, format=form.name), ctx.device).pixels.cpu())
        kept, back = shown
        if self.image is None:
            return {"psnr": psnr(back, kept), "ceiling": math.nan, "to_ceiling": psnr(back, kept)}
        true = self.image.pixels[..., :3].cpu()
        if true.shape != kept.shape:
            raise NodeError(f"image: shape {tuple(kept.shape)} is wanted as the trajectory gives, {tuple(true.shape)} given")
        return {"psnr": psnr(back, true), "ceiling": psnr(kept, true), "to_ceiling": psnr(back, kept)}
