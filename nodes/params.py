"""Types of inputs that many nodes share, named once: bounds, steps of the editor's arrows, and what they mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from diffusion.samplers import SAMPLERS
from diffusion.spacing import SCHEDULERS
from graph_engine.node import File

MAX_SIDE = 16384  # pixels
CELL = 8  # pixels a side of one latent cell, in the units of width, height, x and y that saved graphs use


def number(low: float, high: float, step: float, description: str, **widget: Any) -> Any:
    """A field with inclusive bounds; `step` is what the editor's arrows add, `widget` what else only the editor reads."""
    return Field(ge=low, le=high, json_schema_extra={"step": step, **widget}, description=description)


# -- sampling --

if TYPE_CHECKING:  # a checker cannot follow choices that are computed
    SamplerName = str
    SchedulerName = str
else:
    SamplerName = Annotated[Literal[tuple(SAMPLERS)], Field(description="The algorithm that walks from noise to picture.")]
    SchedulerName = Annotated[Literal[tuple(SCHEDULERS)], Field(description="How the noise levels of the steps are spaced.")]
Seed = Annotated[int, number(0, 2**64 - 1, 1, "The same seed draws the same noise on every device.", control_after_generate=True)]
Steps = Annotated[int, number(1, 10000, 1, "How many denoising steps; more are slower and usually finer.")]
StepNumber = Annotated[int, number(0, 10000, 1, "A step of the schedule, counted from 0.")]
Scale = Annotated[float, number(0, 100, 0.1, "How much more to follow the positive than the negative; 1 turns guidance off.", round=0.01)]
Denoise = Annotated[float, number(0, 1, 0.01, "The share of the noise range to walk; below 1 the start picture shows through.")]
SigmaLevel = Annotated[float, number(0, 5000, 0.01, "A noise level: standard deviation of the noise over a clean signal.", round=False)]
Eta = Annotated[float, number(0, 100, 0.01, "How much fresh noise each step adds: 0 none, 1 ancestral.", round=False)]
NoiseFactor = Annotated[float, number(0, 100, 0.01, "Multiplies the fresh noise.", round=False)]
NoiseDevice = Annotated[
    Literal["gpu", "cpu"],
    Field(description="Kept for saved graphs: noise is always drawn on the CPU, so that a seed means the same picture everywhere."),
]

# -- numbers --

Unit = Annotated[float, number(0, 1, 0.01, "A share from 0 to 1.")]
Strength = Annotated[float, number(0, 10, 0.01, "Weight among the entries that overlap.")]
BatchSize = Annotated[int, number(1, 4096, 1, "How many at once.")]
Color = Annotated[int, number(0, 0xFFFFFF, 1, "Red, green and blue as one number 0xRRGGBB.", display="color")]

# -- sizes --

ImageSide = Annotated[int, number(1, MAX_SIDE, 1, "In pixels.")]
ScaledImageSide = Annotated[int, number(0, MAX_SIDE, 1, "In pixels; 0 keeps the aspect ratio.")]
ImageOffset = Annotated[int, number(0, MAX_SIDE, 1, "In pixels from the left or top.")]
Margin = Annotated[int, number(0, MAX_SIDE, 8, "In pixels, on this side.")]
LatentSide = Annotated[int, number(16, MAX_SIDE, 8, "In pixels of the picture; a latent cell is 8 of them.")]
ScaledLatentSide = Annotated[int, number(0, MAX_SIDE, 8, "In pixels of the picture; 0 keeps the aspect ratio.")]
AreaSide = Annotated[int, number(64, MAX_SIDE, 8, "In pixels of the picture, rounded down to latent cells of 8.")]
LatentOffset = Annotated[int, number(0, MAX_SIDE, 8, "In pixels of the picture from the left or top, rounded down to latent cells of 8.")]
ScaleBy = Annotated[float, number(0.01, 8, 0.01, "Factor for width and height.")]

# -- choices --

UpscaleMethod = Annotated[
    Literal["nearest-exact", "bilinear", "area", "bicubic", "lanczos"],
    Field(description="How pixels between pixels are made."),
]
LatentUpscaleMethod = Annotated[
    Literal["nearest-exact", "bilinear", "area", "bicubic", "bislerp"],
    Field(description="How cells between cells are made; bislerp keeps the length of their vectors."),
]
Crop = Annotated[Literal["disabled", "center"], Field(description="center: trim to the new aspect ratio first; disabled: stretch.")]
FlipMethod = Annotated[Literal["x-axis: vertically", "y-axis: horizontally"], Field(description="Upside down, or left to right.")]
Rotation = Annotated[Literal["none", "90 degrees", "180 degrees", "270 degrees"], Field(description="Clockwise.")]

# -- texts and files --

Text = Annotated[str, Field(json_schema_extra={"multiline": True, "dynamicPrompts": True})]
FilenamePrefix = Annotated[
    str,
    Field(description="Folders and start of the file name; %year% %month% %day% %hour% %minute% %second% %width% %height% are filled in."),
]
EMBEDDED = {"toybox": "toybox:weights"}  # checkpoints that ship with a package
CheckpointFile = Annotated[
    str,
    File("checkpoints", embedded=tuple(EMBEDDED.items())),
    Field(description="A model that brings its text encoder and VAE; toybox is built in."),
]
PICTURES = {"toybox_example.png": "nodes:pictures/toybox_example.png"}  # an input that is always there
InputImage = Annotated[
    str,
    File("input", embedded=tuple(PICTURES.items()), upload=True),
    Field(json_schema_extra={"image_upload": True}, description="A picture in the input folder; a file of several frames gives a batch."),
]


def quarter_turns(rotation: str) -> int:
    """How many quarter turns clockwise a Rotation is."""
    return 0 if rotation == "none" else int(rotation.split()[0]) // 90
