"""Control as a patch: a side network, its hint, how strongly and in which part of the noise range."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from diffusion.batch import repeat_to
from diffusion.call import Block, BlockCall, NetCall, Residuals
from diffusion.control.value import ControlNet
from diffusion.image import resize
from diffusion.patch import FeaturePatch, Run, RunBlock
from diffusion.values import Cond, Conditioning, Image

CELL = 8  # pixels of a hint for one latent cell
COLORS = 3


@dataclass(frozen=True, slots=True, eq=False)
class Control(FeaturePatch):
    """Let a side network steer by a picture. Several of them add up."""

    net: ControlNet
    hint: Tensor  # [b, h, w, 3] in 0..1
    strength: float = 1.0
    start: float = 0.0  # active from this part of the noise range …
    end: float = 1.0  # … to this one; 0 is pure noise, 1 is clean
    spread: bool = False  # holds for the negative, too, where that has no control of its own

    def begin(self, run: Run) -> Any:
        """The network on the device, ready to see hints."""
        table = run.net.table
        window = Window(self, table.percent_to_sigma(self.start), table.percent_to_sigma(self.end))
        if self.net.kind == "adapter":
            return AtBlocks(window, run.net.weights(self.net.weights), _places(run.blocks))
        module: Any = _network(self.net, run)
        _check(module, run.net.unet)
        return BesideNet(window, module, self.net.pooled or module.pooled)


def _network(net: ControlNet, run: Run) -> nn.Module:
    if net.kind == "controlnet":
        return run.net.weights(net.weights)
    from diffusion.family.controlnet import beside  # here, because it imports this package and the model libraries

    if net.kind == "difference" and net.base is None:
        raise ValueError("ControlNet: the file holds differences from a model's weights; load it with DiffControlNetLoader")
    other = net.base is not None and net.base != run.net.model.weights
    unet = run.net.weights(net.base) if other and net.base is not None else run.net.unet
    return beside(unet, net.weights, run.dtype)


def _check(module: Any, unet: Any) -> None:
    """Raise ValueError where a ControlNet's residuals are not of the U-Net's shapes, or it cannot read a hint of pixels."""
    widths = tuple(unet.config.block_out_channels)
    if module.widths != widths:
        raise ValueError(
            f"ControlNet: its levels have {_listed(module.widths)} channels, the model's {_listed(widths)}; "
            "use a ControlNet made for this kind of model"
        )
    if module.hint_channels != COLORS:
        raise ValueError(f"ControlNet: it reads hints of {module.hint_channels} channels, a picture has {COLORS}")
    if module.factor != CELL:
        raise ValueError(f"ControlNet: its hint has {module.factor} pixels to a latent cell, {CELL} are wanted")


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))


def apply(
    conditioning: Conditioning, net: ControlNet, image: Image, strength: float, start: float = 0.0, end: float = 1.0, spread: bool = False
) -> Conditioning:
    """The conditioning with one more control on every entry; as it is when the strength is 0."""
    return apply_all((conditioning,), net, image, strength, start, end, spread)[0]


def apply_all(
    conditionings: tuple[Conditioning, ...],
    net: ControlNet,
    image: Image,
    strength: float,
    start: float = 0.0,
    end: float = 1.0,
    spread: bool = False,
) -> tuple[Conditioning, ...]:
    """The same for several conditionings; one patch serves all, so that they are evaluated in one batch."""
    if strength == 0:
        return conditionings
    patch = Control(net, image.pixels[..., :3], strength, start, end, spread)

    def controlled(entry: Cond) -> Cond:
        return replace(entry, patches=(*entry.patches, patch))

    return tuple(Conditioning(tuple(controlled(entry) for entry in conditioning)) for conditioning in conditionings)


@dataclass(slots=True, eq=False)
class Window:
    """When a control holds, and its hint at the sizes that were asked for so far."""

    control: Control
    first: float  # active from this noise level …
    last: float  # … down to this one
    hints: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    def open(self, sigma: float) -> bool:
        """Whether the control holds at a noise level."""
        return self.last <= sigma <= self.first

    def hint(self, height: int, width: int) -> Tensor:
        """The hint [b, 3, height, width]: the middle of the picture, nearest pixels."""
        if (height, width) not in self.hints:
            self.hints[height, width] = resize(self.control.hint.movedim(-1, 1).float(), width, height, "nearest-exact", "center")
        return self.hints[height, width]


def rows_of(hint: Tensor, rows: int, batch: int) -> Tensor:
    """Hints for all rows of a network batch: the pictures in turn for the samples of each entry; one hint stands for all."""
    if hint.shape[0] == 1:
        return hint
    return repeat_to(hint, batch).repeat(rows // batch, 1, 1, 1)


@dataclass(slots=True, eq=False)
class BesideNet(FeaturePatch):
    """A ControlNet at work."""

    window: Window
    module: Any
    pooled: bool  # its residuals are averaged over the picture
    seen: dict[tuple[int, ...], Tensor] = field(default_factory=dict)  # what it made of the hint, by the shape of the batch

    def residuals(self, call: NetCall) -> Residuals | None:
        """What it adds to skip connections and middle."""
        if not self.window.open(call.step.sigma):
            return None
        control, module, (rows, columns) = self.window.control, self.module, call.x.shape[2:]
        if module.channels > call.x.shape[1]:
            raise ValueError(f"ControlNet: it reads latents of {module.channels} channels, the model's have {call.x.shape[1]}")
        t = torch.full((len(call.x),), call.step.t, device=call.x.device)
        context = call.context if call.aside is None else call.aside
        if module.text not in (None, context.shape[-1]):
            raise ValueError(
                f"ControlNet: it reads text of width {module.text}, the model's has {context.shape[-1]}; "
                "use a ControlNet made for this kind of model"
            )
        guide = self._guide(call, rows, columns)
        down, mid = module.steer(call.x[:, : module.channels], t, context, guide, call.added, control.net.types)
        return Residuals(tuple(self._scaled(x) for x in down), self._scaled(mid))

    def _guide(self, call: NetCall, rows: int, columns: int) -> Tensor:
        key = (rows, columns, len(call.x), call.rows.batch)
        if key not in self.seen:
            hint = rows_of(self.window.hint(rows * CELL, columns * CELL), len(call.x), call.rows.batch).to(call.x)
            self.seen[key] = self.module.see(hint, self.window.control.net.types)
        return self.seen[key]

    def _scaled(self, x: Tensor) -> Tensor:
        if self.pooled:
            x = x.mean((2, 3), keepdim=True).expand_as(x)
        return x * self.window.control.strength


@dataclass(slots=True, eq=False)
class AtBlocks(FeaturePatch):
    """A T2I-Adapter at work: its features do not change from step to step, so they are made once for a size."""

    window: Window
    module: Any
    places: dict[str, tuple[str, ...]]  # for both kinds of adapter the blocks behind which its features are added
    made: dict[tuple[int, int], tuple[Tensor, ...]] = field(default_factory=dict)
    size: tuple[int, int] = (0, 0)

    def at_block(self, block: Block) -> bool:
        """The last block of each level, or (SDXL) what follows the level's own size."""
        return block.name in self._places or block.name == "in.conv"

    @property
    def _places(self) -> tuple[str, ...]:
        return self.places["wide" if self.module.wide else "plain"]

    def block(self, call: BlockCall, next: RunBlock) -> Tensor:
        """The block's output with the features of that place added."""
        if call.block.name == "in.conv":
            self.size = (call.h.shape[2], call.h.shape[3])
        out = next(call)
        if call.block.name not in self._places or not self.window.open(call.step.sigma):
            return out
        number = self._places.index(call.block.name)
        features = self._features(out)
        if number >= len(features):
            return out
        feature = rows_of(features[number], len(out), call.rows.batch)
        if feature.shape[1:] != out.shape[1:]:
            raise ValueError(
                f"T2I-Adapter: its features {number + 1} are {list(feature.shape[1:])}, those of the model's {call.block.name} "
                f"{list(out.shape[1:])}; use an adapter made for this kind of model"
            )
        return out + feature * self.window.control.strength

    def _features(self, like: Tensor) -> tuple[Tensor, ...]:
        if self.size not in self.made:
            patch = self.module.patch
            height, width = (math.ceil(n * CELL / patch) * patch for n in self.size)
            self.made[self.size] = self.module(self.window.hint(height, width).to(like))
        return self.made[self.size]


def _places(blocks: tuple[Block, ...]) -> dict[str, tuple[str, ...]]:
    levels = sorted({block.block for block in blocks if block.place == "down"})
    last = [max((b for b in blocks if b.place == "down" and b.block == i and b.kind != "sampler"), key=_order).name for i in levels]
    middle = max((b for b in blocks if b.place == "mid"), key=_order).name
    ends = [max((b for b in blocks if b.place == "down" and b.block == i), key=_order).name for i in levels]
    return {"plain": tuple(last), "wide": (ends[0], *last[1:], middle)}


def _order(block: Block) -> int:
    return block.index


def spread(branches: Mapping[str, Conditioning]) -> Mapping[str, Conditioning]:
    """The branches with controls that hold for all of them handed to a negative without control of its own.

    ComfyUI's rule for ControlNetApply: the k-th such entry of the positive goes to the k-th entry of the negative, both counted without
    entries that have an area; where the negative has fewer, it is gone through again, and the last one that comes to an entry holds.
    """
    if not {"positive", "negative"} <= branches.keys():
        return branches
    chains = [c for c in map(_controls, filter(_everywhere, branches["positive"])) if c and c[-1].spread]
    entries = list(branches["negative"])
    free = [i for i, entry in enumerate(entries) if _everywhere(entry)]
    if not chains or not free or any(_controls(entries[i]) for i in free):
        return branches
    for k, chain in enumerate(chains):
        place = free[k % len(free)]
        plain = branches["negative"].entries[place]
        entries[place] = replace(plain, patches=(*plain.patches, *chain))
    return {**branches, "negative": Conditioning(tuple(entries))}


def _everywhere(entry: Cond) -> bool:
    return entry.area is None and not (entry.mask is not None and entry.mask_bounds)


def _controls(entry: Cond) -> tuple[Control, ...]:
    return tuple(patch for patch in entry.patches if isinstance(patch, Control))
