#!/usr/bin/env python3
"""Random-weight checkpoints of each model family with the original code's names, the same bits for the same seed.

    python tests/tools/make_checkpoint.py KIND OUT.safetensors [--full] [--seed N] [--dtype float16|bfloat16|float32]

KIND: sd15, sd15-inpaint, sd15-ip2p, sd21, sd21-v, sd21-inpaint, sdxl, sdxl-inpaint, sdxl-ip2p, sdxl-refiner, ssd-1b, koala, vae, clip-l,
clip-h, clip-g; ssd-1b and koala are SDXL with layers taken out.
Small ones keep the layout and have few, narrow layers; --full has the real widths and depths.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor


@dataclass(frozen=True)
class Net:
    """What a U-Net is made of: a width for each level, and how many transformer layers follow each resnet of it.

    `up` tells of the way up, deepest level first, where it is not as the way down; `middle` is 0 for a resnet alone, None for nothing.
    """

    widths: tuple[int, ...]
    resnets: int
    depths: tuple[int, ...]
    middle: int | None
    context: int
    linear: bool
    inputs: int = 4
    told: int | None = None
    up: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Text:
    """A text encoder: where it lies, and its size."""

    prefix: str
    open_clip: bool
    width: int
    layers: int
    projection: int | None = None


@dataclass(frozen=True)
class Kind:
    net: Net | None
    texts: tuple[Text, ...]
    vae: str | None = "first_stage_model."
    marks: tuple[str, ...] = ()


L, H, G = 768, 1024, 1280
HF, OPEN = "cond_stage_model.transformer.text_model.", "cond_stage_model.model."
XL_L, XL_G, REFINER_G = (
    "conditioner.embedders.0.transformer.text_model.",
    "conditioner.embedders.1.model.",
    "conditioner.embedders.0.model.",
)


def kinds(full: bool) -> dict[str, Kind]:
    """All kinds in the real size or in a small one."""

    def size(real: tuple[int, ...], small: tuple[int, ...]) -> tuple[int, ...]:
        return real if full else small

    l, h, g = (L, H, G) if full else (64, 128, 128)  # noqa: E741
    (ll, hl, gl) = (12, 24, 32) if full else (3, 3, 3)
    n = 2 if full else 1
    sd1 = Net(size((320, 640, 1280, 1280), (64, 128)), n, size((1, 1, 1, 0), (1, 1)), 1, l, linear=False)
    sd2 = replace(sd1, context=h, linear=True)
    xl = Net(size((320, 640, 1280), (64, 64, 128)), n, size((0, 2, 10), (0, 1, 2)), 10 if full else 2, l + g, linear=True, told=g + 6 * 256)
    refiner = Net(
        size((384, 768, 1536, 1536), (64, 64, 128, 128)), n, size((0, 4, 4, 0), (0, 2, 2, 0)), 4 if full else 2, g, True, told=g + 5 * 256
    )
    ssd = replace(
        xl, depths=size((0, 2, 4), (0, 1, 2)), middle=0, up=((4, 4, 10), (2, 1, 1), (0, 0, 0)) if full else ((2, 3), (2, 1), (0, 0))
    )
    koala = replace(xl, resnets=1, depths=size((0, 2, 5), (0, 1, 2)), middle=None)
    one, two = (Text(HF, False, l, ll),), (Text(OPEN, True, h, hl, h),)
    both, last = (Text(XL_L, False, l, ll), Text(XL_G, True, g, gl, g)), (Text(REFINER_G, True, g, gl, g),)
    return {
        "sd15": Kind(sd1, one),
        "sd15-inpaint": Kind(replace(sd1, inputs=9), one),
        "sd15-ip2p": Kind(replace(sd1, inputs=8), one),
        "sd21": Kind(sd2, two),
        "sd21-v": Kind(sd2, two, marks=("v_pred",)),
        "sd21-inpaint": Kind(replace(sd2, inputs=9), two),
        "sdxl": Kind(xl, both),
        "sdxl-inpaint": Kind(replace(xl, inputs=9), both),
        "sdxl-ip2p": Kind(replace(xl, inputs=8), both),
        "sdxl-refiner": Kind(refiner, last),
        "ssd-1b": Kind(ssd, both),
        "koala": Kind(koala, both),
        "vae": Kind(None, (), vae=""),
        "clip-l": Kind(None, (Text("text_model.", False, l, ll),), vae=None),
        "clip-h": Kind(None, (Text("", True, h, hl, h),), vae=None),
        "clip-g": Kind(None, (Text("", True, g, gl, g),), vae=None),
    }


def make(kind: str, *, full: bool = False, seed: int = 0, dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    """The weights of a checkpoint by name. Raises KeyError for a kind that there is not."""
    what = kinds(full)[kind]
    generator = torch.Generator().manual_seed(seed)
    shapes: list[tuple[str, tuple[int, ...]]] = []
    if what.net is not None:
        shapes += unet("model.diffusion_model.", what.net)
    for each in what.texts:
        shapes += text(each)
    if what.vae is not None:
        shapes += vae(what.vae, 128 if full else 32, 2 if full else 1)
    tensors = {name: _draw(name, shape, generator).to(dtype) for name, shape in shapes}
    for each in what.texts:
        if not each.open_clip:
            tensors[each.prefix + "embeddings.position_ids"] = torch.arange(77)[None]
    return tensors | {mark: torch.zeros(0) for mark in what.marks}


def _draw(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    numbers = torch.rand(shape, generator=generator) * 2 - 1
    if len(shape) == 1:
        return 1 + numbers / 8 if name.endswith("weight") else numbers / 32
    if "embedding" in name:
        return numbers
    return numbers * math.sqrt(3 / math.prod(shape[1:]))


Shapes = Iterator[tuple[str, tuple[int, ...]]]


def _layer(name: str, *shape: int, bias: bool = True) -> Shapes:
    yield f"{name}.weight", shape
    if bias:
        yield f"{name}.bias", shape[:1]


def _resnet(p: str, i: int, o: int, told: int) -> Shapes:
    yield from _layer(f"{p}.in_layers.0", i)
    yield from _layer(f"{p}.in_layers.2", o, i, 3, 3)
    yield from _layer(f"{p}.emb_layers.1", o, told)
    yield from _layer(f"{p}.out_layers.0", o)
    yield from _layer(f"{p}.out_layers.3", o, o, 3, 3)
    if i != o:
        yield from _layer(f"{p}.skip_connection", o, i, 1, 1)


def _transformer(p: str, c: int, depth: int, net: Net) -> Shapes:
    ends = (c, c) if net.linear else (c, c, 1, 1)
    yield from _layer(f"{p}.norm", c)
    yield from _layer(f"{p}.proj_in", *ends)
    for d in range(depth):
        t = f"{p}.transformer_blocks.{d}"
        for attention, wide in (("attn1", c), ("attn2", net.context)):
            yield from _layer(f"{t}.{attention}.to_q", c, c, bias=False)
            yield from _layer(f"{t}.{attention}.to_k", c, wide, bias=False)
            yield from _layer(f"{t}.{attention}.to_v", c, wide, bias=False)
            yield from _layer(f"{t}.{attention}.to_out.0", c, c)
        yield from _layer(f"{t}.ff.net.0.proj", c * 8, c)
        yield from _layer(f"{t}.ff.net.2", c, c * 4)
        for i in (1, 2, 3):
            yield from _layer(f"{t}.norm{i}", c)
    yield from _layer(f"{p}.proj_out", *ends)


def unet(p: str, net: Net) -> Shapes:
    """Names and shapes of a U-Net."""
    c = net.widths[0]
    told = 4 * c
    yield from _layer(f"{p}time_embed.0", told, c)
    yield from _layer(f"{p}time_embed.2", told, told)
    if net.told is not None:
        yield from _layer(f"{p}label_emb.0.0", told, net.told)
        yield from _layer(f"{p}label_emb.0.2", told, told)
    yield from _layer(f"{p}input_blocks.0.0", c, net.inputs, 3, 3)
    skips, i = [c], 1
    for level, width in enumerate(net.widths):
        for _ in range(net.resnets):
            yield from _resnet(f"{p}input_blocks.{i}.0", c, width, told)
            c = width
            if net.depths[level]:
                yield from _transformer(f"{p}input_blocks.{i}.1", c, net.depths[level], net)
            skips.append(c)
            i += 1
        if level + 1 < len(net.widths):
            yield from _layer(f"{p}input_blocks.{i}.0.op", c, c, 3, 3)
            skips.append(c)
            i += 1
    if net.middle is not None:
        yield from _resnet(f"{p}middle_block.0", c, c, told)
    if net.middle:
        yield from _transformer(f"{p}middle_block.1", c, net.middle, net)
        yield from _resnet(f"{p}middle_block.2", c, c, told)
    i = 0
    ups = net.up or tuple((depth,) * (net.resnets + 1) for depth in reversed(net.depths))
    for level, depths in zip(reversed(range(len(net.widths))), ups, strict=True):
        for j, depth in enumerate(depths):
            yield from _resnet(f"{p}output_blocks.{i}.0", c + skips.pop(), net.widths[level], told)
            c, last = net.widths[level], 1
            if depth:
                yield from _transformer(f"{p}output_blocks.{i}.1", c, depth, net)
                last = 2
            if level and j == net.resnets:
                yield from _layer(f"{p}output_blocks.{i}.{last}.conv", c, c, 3, 3)
            i += 1
    yield from _layer(f"{p}out.0", c)
    yield from _layer(f"{p}out.2", 4, c, 3, 3)


def text(t: Text) -> Shapes:
    """Names and shapes of a text encoder."""
    p, w = t.prefix, t.width
    if t.open_clip:
        yield f"{p}positional_embedding", (77, w)
        yield f"{p}text_projection", (w, t.projection or w)
        yield f"{p}token_embedding.weight", (49408, w)
        yield from _layer(f"{p}ln_final", w)
        for i in range(t.layers):
            r = f"{p}transformer.resblocks.{i}"
            yield f"{r}.attn.in_proj_weight", (3 * w, w)
            yield f"{r}.attn.in_proj_bias", (3 * w,)
            for name, shape in (
                ("attn.out_proj", (w, w)),
                ("mlp.c_fc", (4 * w, w)),
                ("mlp.c_proj", (w, 4 * w)),
                ("ln_1", (w,)),
                ("ln_2", (w,)),
            ):
                yield from _layer(f"{r}.{name}", *shape)
        return
    yield f"{p}embeddings.token_embedding.weight", (49408, w)
    yield f"{p}embeddings.position_embedding.weight", (77, w)
    for i in range(t.layers):
        r = f"{p}encoder.layers.{i}"
        for x in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _layer(f"{r}.self_attn.{x}", w, w)
        for name, shape in (("mlp.fc1", (4 * w, w)), ("mlp.fc2", (w, 4 * w)), ("layer_norm1", (w,)), ("layer_norm2", (w,))):
            yield from _layer(f"{r}.{name}", *shape)
    yield from _layer(f"{p}final_layer_norm", w)


def vae(p: str, c: int, blocks: int) -> Shapes:
    """Names and shapes of a VAE with four levels."""
    widths = (c, 2 * c, 4 * c, 4 * c)

    def resnet(q: str, i: int, o: int) -> Shapes:
        yield from _layer(f"{q}.norm1", i)
        yield from _layer(f"{q}.conv1", o, i, 3, 3)
        yield from _layer(f"{q}.norm2", o)
        yield from _layer(f"{q}.conv2", o, o, 3, 3)
        if i != o:
            yield from _layer(f"{q}.nin_shortcut", o, i, 1, 1)

    def middle(q: str, w: int) -> Shapes:
        yield from resnet(f"{q}.block_1", w, w)
        yield from _layer(f"{q}.attn_1.norm", w)
        for x in ("q", "k", "v", "proj_out"):
            yield from _layer(f"{q}.attn_1.{x}", w, w, 1, 1)
        yield from resnet(f"{q}.block_2", w, w)

    yield from _layer(f"{p}encoder.conv_in", c, 3, 3, 3)
    now = c
    for level, w in enumerate(widths):
        for j in range(blocks):
            yield from resnet(f"{p}encoder.down.{level}.block.{j}", now, w)
            now = w
        if level < 3:
            yield from _layer(f"{p}encoder.down.{level}.downsample.conv", w, w, 3, 3)
    yield from middle(f"{p}encoder.mid", now)
    yield from _layer(f"{p}encoder.norm_out", now)
    yield from _layer(f"{p}encoder.conv_out", 8, now, 3, 3)
    yield from _layer(f"{p}decoder.conv_in", now, 4, 3, 3)
    yield from middle(f"{p}decoder.mid", now)
    for level in reversed(range(4)):
        for j in range(blocks + 1):
            yield from resnet(f"{p}decoder.up.{level}.block.{j}", now, widths[level])
            now = widths[level]
        if level:
            yield from _layer(f"{p}decoder.up.{level}.upsample.conv", now, now, 3, 3)
    yield from _layer(f"{p}decoder.norm_out", now)
    yield from _layer(f"{p}decoder.conv_out", 3, now, 3, 3)
    yield from _layer(f"{p}quant_conv", 8, 8, 1, 1)
    yield from _layer(f"{p}post_quant_conv", 4, 4, 1, 1)


def main() -> None:
    """Write a checkpoint as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=[*kinds(False)])
    parser.add_argument("out", type=Path)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=["float16", "bfloat16", "float32"], default="float16")
    given = parser.parse_args()
    save_file(make(given.kind, full=given.full, seed=given.seed, dtype=getattr(torch, given.dtype)), given.out)


if __name__ == "__main__":
    main()
