"""What a model is taken to predict, where its file does not say."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from diffusion.process import PREDICTIONS
from diffusion.values import Model
from graph_engine.errors import NodeError
from graph_engine.node import Node
from nodes.params import number

if TYPE_CHECKING:
    from graph_engine.context import Context

OURS = {"eps": "epsilon", "x0": "sample"} | {name: name for name in PREDICTIONS}


class ModelSamplingDiscrete(Node, category="advanced/model", title="Model Sampling (Discrete)", aliases=("v-prediction", "lcm", "zsnr")):
    """State what a model predicts, and whether its noisiest level is pure noise (Lin et al. 2024)."""

    model: Model
    sampling: Annotated[
        Literal["eps", "v_prediction", "lcm", "x0", "img_to_img"],
        Field(description="Noise, velocity, noise of a latent consistency model, the clean picture, or that from an input not scaled."),
    ]
    zsnr: Annotated[bool, Field(description="Shift the levels so that the last one is all but pure noise.")] = False

    def run(self, ctx: Context) -> Model:
        process = dataclasses.replace(
            self.model.process, prediction=OURS[self.sampling], zero_terminal_snr=self.zsnr, levels=None, sigma_data=1.0
        )
        return dataclasses.replace(self.model, process=process)


class ModelSamplingContinuousEDM(Node, category="advanced/model", title="Model Sampling (Continuous EDM)", aliases=("karras", "edm")):
    """State that a model was trained on all levels between two, and what it predicts (Karras et al. 2022)."""

    model: Model
    sampling: Annotated[
        Literal["v_prediction", "edm", "edm_playground_v2.5", "eps", "cosmos_rflow"],
        Field(description="Velocity, EDM's own parametrisation, or noise. The other two belong to model families that are not supported."),
    ]
    sigma_max: Annotated[float, number(0, 1000, 0.001, "The noisiest level.", round=False)] = 120.0
    sigma_min: Annotated[float, number(0, 1000, 0.001, "The cleanest level; above 0.", round=False)] = 0.002

    def run(self, ctx: Context) -> Model:
        if self.sampling in ("edm_playground_v2.5", "cosmos_rflow"):
            raise NodeError(f"sampling: v_prediction, edm or eps is wanted; {self.sampling} is for model families that are not supported")
        if not 0 < self.sigma_min < self.sigma_max:
            raise NodeError(f"sigma_min: a level above 0 and below sigma_max {self.sigma_max:g} is wanted, {self.sigma_min:g} given")
        process = dataclasses.replace(
            self.model.process,
            prediction=OURS[self.sampling],
            zero_terminal_snr=False,
            levels=(self.sigma_min, self.sigma_max),
            sigma_data=0.5 if self.sampling == "edm" else 1.0,
        )
        return dataclasses.replace(self.model, process=process)
