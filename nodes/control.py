"""Steering by a picture: ControlNets and T2I-Adapters."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from pydantic import Field

from diffusion.control.file import open_control
from diffusion.control.patch import apply_all
from diffusion.control.value import UNION_TYPES, ControlNet
from diffusion.values import VAE, Conditioning, Image, Model
from graph_engine.errors import NodeError
from graph_engine.node import File, Node
from nodes.params import number

if TYPE_CHECKING:
    from graph_engine.context import Context

EMBEDDED_CONTROLS = {"toybox_edges": "toybox:weights/control/edges", "toybox_colors": "toybox:weights/control/colors"}
ControlFile = Annotated[
    str,
    File("controlnet", embedded=tuple(EMBEDDED_CONTROLS.items())),
    Field(description="A ControlNet or T2I-Adapter made for the kind of model; those of the toybox are built in."),
]
ControlStrength = Annotated[float, number(0, 10, 0.01, "How strongly the picture steers; 0 is not at all.")]
StartPercent = Annotated[float, number(0, 1, 0.001, "From this part of the noise range on; 0 is pure noise.")]
EndPercent = Annotated[float, number(0, 1, 0.001, "Up to this part of the noise range; 1 is the finished picture.")]
if TYPE_CHECKING:  # a checker cannot follow choices that are computed
    UnionType = str
else:
    UnionType = Literal[("auto", *UNION_TYPES)]


class ControlNetLoader(Node, category="loaders", title="Load ControlNet Model", aliases=("t2i adapter",)):
    """Open a ControlNet or T2I-Adapter; its weights are read when they are first used."""

    control_net_name: ControlFile

    def run(self, ctx: Context) -> ControlNet:
        return _opened(ctx, self.control_net_name)


class DiffControlNetLoader(Node, category="loaders", title="Load ControlNet Model (diff)"):
    """Open a ControlNet whose file holds differences from a model's weights; any other is opened as it is."""

    model: Model
    control_net_name: ControlFile

    def run(self, ctx: Context) -> ControlNet:
        net = _opened(ctx, self.control_net_name)
        return replace(net, base=self.model.weights) if net.kind == "difference" else net


def _opened(ctx: Context, name: str) -> ControlNet:
    try:
        return open_control(ctx.path("controlnet", name, EMBEDDED_CONTROLS))
    except (ValueError, OSError) as problem:
        raise NodeError(f"control_net_name: {problem}") from problem


class ControlNetApply(Node, category="conditioning/controlnet", title="Apply ControlNet (OLD)", deprecated=True):
    """Let a picture steer; where the negative has no control of its own, it is steered, too."""

    conditioning: Conditioning
    control_net: ControlNet
    image: Image
    strength: ControlStrength = 1.0

    def run(self, ctx: Context) -> Conditioning:
        return apply_all((self.conditioning,), self.control_net, self.image, self.strength, spread=True)[0]


class ControlNetApplyAdvanced(Node, category="conditioning/controlnet", title="Apply ControlNet"):
    """Let a picture steer both conditionings in a part of the noise range; several in a row add up."""

    positive: Conditioning
    negative: Conditioning
    control_net: ControlNet
    image: Image
    strength: ControlStrength = 1.0
    start_percent: StartPercent = 0.0
    end_percent: EndPercent = 1.0
    vae: Annotated[VAE | None, Field(description="Kept for saved graphs; the control networks of this engine read pixels.")] = None

    class Out(NamedTuple):
        positive: Conditioning
        negative: Conditioning

    def run(self, ctx: Context) -> Out:
        both = (self.positive, self.negative)
        return self.Out(*apply_all(both, self.control_net, self.image, self.strength, self.start_percent, self.end_percent))


class SetUnionControlNetType(Node, category="conditioning/controlnet", title="Set Union ControlNet Type"):
    """Tell a ControlNet that knows several kinds of picture which kind it gets."""

    control_net: ControlNet
    type: Annotated[UnionType, Field(description="auto: tell it nothing.")] = "auto"

    def run(self, ctx: Context) -> ControlNet:
        return replace(self.control_net, types=() if self.type == "auto" else (UNION_TYPES[self.type],))
