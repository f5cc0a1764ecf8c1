"""Deep shrink (Kohya 2023): early in a run, the U-Net's depths see large pictures at the size they were trained on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field
from torch import Tensor

from diffusion.image import resize
from diffusion.patch import Block, BlockCall, FeaturePatch, Run, RunBlock
from diffusion.values import Model
from graph_engine.node import Node
from nodes.params import number

if TYPE_CHECKING:
    from graph_engine.context import Context


@dataclass(frozen=True, slots=True)
class Shrink(FeaturePatch):
    """Features are made smaller at one block on the way down, and brought back where they meet a larger skip connection."""

    number: int  # of the block, counting the first convolution as 0; each makes one skip connection
    factor: float
    after_skip: bool
    down: str  # how to resize
    up: str
    start: float = 0.0  # active from this part of the noise range …
    end: float = 1.0  # … to this one; 0 is pure noise, 1 is clean

    def begin(self, run: Run) -> Any:
        """The blocks of this network at which something is to be done."""
        following = {block.name: after for block, after in zip(run.blocks, [*run.blocks[1:], None], strict=True)}
        makes = [
            block.name
            for block in run.blocks
            if block.place == "in" or (block.place == "down" and getattr(following[block.name], "kind", None) != "attention")
        ]
        if self.number >= len(makes):
            raise ValueError(f"block_number: 1 to {len(makes) - 1} is wanted for this model, {self.number} given")
        at = makes[self.number]
        after = following[at]
        before_skip = {name for name, block in following.items() if block is not None and block.split is not None}
        table = run.net.table
        window = (table.percent_to_sigma(self.start), table.percent_to_sigma(self.end))
        return Shrinking(self, at, after.name if after is not None else "", frozenset(makes), frozenset(before_skip), window)


@dataclass(slots=True, eq=False)
class Shrinking(FeaturePatch):
    """The patch during one session."""

    shrink: Shrink
    at: str  # the block …
    after: str  # … and the one after it
    makes: frozenset[str]  # blocks whose output is a skip connection, too
    before_skip: frozenset[str]  # blocks whose output meets one next
    window: tuple[float, float]
    sizes: list[tuple[int, int]] = field(default_factory=list)  # of the skip connections that are still to be met

    def at_block(self, block: Block) -> bool:
        """All those that make or meet skip connections."""
        return block.name in self.makes or block.name in self.before_skip or block.name == self.after or block.split is not None

    def block(self, call: BlockCall, next: RunBlock) -> Tensor:
        """The block at the size wanted there."""
        name, shrink = call.block.name, self.shrink
        active = self.window[1] <= call.step.sigma <= self.window[0]
        if call.block.place == "in":
            self.sizes.clear()
        if call.block.split is not None:
            self.sizes.pop()
        if active and shrink.after_skip and name == self.after:
            call = replace(call, h=self._smaller(call.h))
        if name in self.before_skip and call.block.kind == "sampler":
            call = replace(call, reach=self.sizes[-1])
        out = next(call)
        if active and not shrink.after_skip and name == self.at:
            out = self._smaller(out)
        if name in self.makes:
            self.sizes.append((out.shape[2], out.shape[3]))
        if name in self.before_skip and tuple(out.shape[2:]) != self.sizes[-1]:
            height, width = self.sizes[-1]
            out = resize(out, width, height, shrink.up)
        return out

    def _smaller(self, h: Tensor) -> Tensor:
        height, width = (max(1, round(side / self.shrink.factor)) for side in h.shape[2:])
        return resize(h, width, height, self.shrink.down)


# node

Method = Annotated[
    Literal["bicubic", "nearest-exact", "bilinear", "area", "bislerp"], Field(description="How features between features are made.")
]
Percent = Annotated[float, number(0, 1, 0.001, "As a share of the noise range; 0 is its noisy beginning.")]


class PatchModelAddDownscale(
    Node, category="model_patches/unet", title="Downscale inside the U-Net (Kohya Deep Shrink)", aliases=("hires", "large pictures")
):
    """Early in a run, shrink the features inside the U-Net, so that pictures larger than it knows get one subject, not several."""

    model: Model
    block_number: Annotated[int, number(1, 32, 1, "After which block on the way down, the first convolution being 0.")] = 3
    downscale_factor: Annotated[float, number(0.1, 9, 0.001, "By how much to shrink.")] = 2.0
    start_percent: Percent = 0.0
    end_percent: Percent = 0.35
    downscale_after_skip: Annotated[bool, Field(description="The block's own skip connection keeps its size.")] = True
    downscale_method: Method = "bicubic"
    upscale_method: Method = "bicubic"

    def run(self, ctx: Context) -> Model:
        methods = (self.downscale_method, self.upscale_method)
        window = (self.start_percent, self.end_percent)
        return self.model.patched(Shrink(self.block_number, self.downscale_factor, self.downscale_after_skip, *methods, *window))
