"""Pictures for control networks, made without any network: edges, scribbles, segments, tiles, depth and normals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from pydantic import Field

from diffusion import hints
from diffusion.values import Image, Mask
from graph_engine.errors import NodeError
from graph_engine.node import Node
from nodes.params import number

if TYPE_CHECKING:
    from graph_engine.context import Context

Threshold = Annotated[float, number(0.01, 0.99, 0.01, "A share of the steepest possible slope of brightness.")]
Pixels = Annotated[int, number(1, 64, 1, "In pixels.")]


class Canny(Node, category="image/preprocessors", title="Canny", aliases=("edges", "control")):
    """White edges on black: where brightness changes steeply; weak edges count where they touch strong ones."""

    image: Image
    low_threshold: Annotated[Threshold, Field(description="Weak edges are at least this steep.")] = 0.4
    high_threshold: Annotated[Threshold, Field(description="Strong edges are at least this steep.")] = 0.8

    def run(self, ctx: Context) -> Image:
        try:
            return Image(hints.canny(self.image.pixels, self.low_threshold, self.high_threshold))
        except ValueError as problem:
            raise NodeError(str(problem)) from problem


class ScribbleFromEdges(Node, category="image/preprocessors", title="Scribble from Edges", aliases=("sketch", "control")):
    """Thick, smooth strokes in place of thin edges, as if drawn by hand."""

    image: Annotated[Image, Field(description="White lines on black, as from Canny.")]
    thickness: Pixels = 5

    def run(self, ctx: Context) -> Image:
        return Image(hints.scribble(self.image.pixels, self.thickness))


class SegmentPalette(Node, category="image/preprocessors", title="Segment Palette", aliases=("segmentation map", "control")):
    """A segment map from masks: every mask in a colour of its own, the rest black; later masks lie on top."""

    masks: Annotated[Mask, Field(description="One mask for each segment, as a batch.")]
    palette: Annotated[
        Literal["ade20k", "distinct"], Field(description="ade20k: the colours of that data set's classes; distinct: colours far apart.")
    ] = "ade20k"
    first: Annotated[int, number(0, 149, 1, "Number of the first mask's colour; the others count on.")] = 0

    def run(self, ctx: Context) -> Image:
        return Image(hints.segment_map(self.masks.values, self.palette, self.first))


class TilePreprocessor(Node, category="image/preprocessors", title="Tile Preprocessor", aliases=("blur", "coarse colors", "control")):
    """The picture with its details lost: shrunk, then enlarged to its size again; also even squares of coarse colours."""

    image: Image
    cell: Annotated[Pixels, Field(description="Side of what becomes one colour, in pixels.")] = 8
    enlarge: Annotated[Literal["bicubic", "nearest-exact"], Field(description="Smoothly, or as even squares.")] = "bicubic"

    def run(self, ctx: Context) -> Image:
        return Image(hints.tile(self.image.pixels, self.cell, self.enlarge))


class DepthFromImage(Node, category="image/preprocessors", title="Depth Map", aliases=("control",)):
    """A depth map as control networks want it, white being near, from a given one: its brightness stretched over the whole range."""

    image: Annotated[Image, Field(description="A depth map, rendered or measured; its brightness counts.")]
    near: Annotated[Literal["white", "black"], Field(description="What is near in the given map.")] = "white"

    def run(self, ctx: Context) -> Image:
        return Image(hints.depth(self.image.pixels, self.near == "black"))


class NormalFromDepth(Node, category="image/preprocessors", title="Normal Map from Depth", aliases=("control",)):
    """Which way surfaces face, as colours: red to the right, green up, blue towards the eye."""

    depth: Annotated[Image, Field(description="A depth map, white being near.")]
    strength: Annotated[float, number(0.01, 100, 0.01, "How much relief full depth makes.")] = 6.28
    background_threshold: Annotated[float, number(0, 1, 0.01, "What is farther than this faces the eye.")] = 0.1

    class Out(NamedTuple):
        image: Image
        foreground: Annotated[Mask, Field(description="What is nearer than the threshold.")]

    def run(self, ctx: Context) -> Out:
        try:
            image, near = hints.normals(self.depth.pixels, self.strength, self.background_threshold)
        except ValueError as problem:
            raise NodeError(f"depth: {problem}") from problem
        return self.Out(Image(image), Mask(near))
