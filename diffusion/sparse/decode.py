"""Decoding of latents in which little has changed: the decoder's blocks run on the changed part alone (Li et al. 2022, sec. 4)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from diffusion.family import family
from diffusion.features import tapped
from diffusion.memory import TorchDevice
from diffusion.patch import Block, FeaturePatch, Moment, Rows
from diffusion.sparse.cache import ActivationCache
from diffusion.sparse.difference import dilated
from diffusion.sparse.edit import Editing, Plan, Sparse, mask_of
from diffusion.sparse.record import Record, Recording
from diffusion.values import VAE, Image, Latent

Module = Any  # diffusers declares no types


def blocks(vae: Module) -> list[tuple[Block, nn.Module]]:
    """The decoder's convolutions at both ends, resnets and upsamplers in order of execution; `scale` counts enlargements instead.

    The middle's attention is not among them: it is a small part of the work, and always computed whole.
    """
    decoder = vae.decoder
    found: list[tuple[Block, nn.Module]] = []

    def add(name: str, kind: str, place: str, number: int, module: nn.Module) -> None:
        found.append((Block(name, kind, place, number, len(found), 2**number), module))

    add("in.conv", "conv", "in", 0, decoder.conv_in)
    for i, resnet in enumerate(decoder.mid_block.resnets):
        add(f"mid.resnet.{i}", "resnet", "mid", 0, resnet)
    for number, block in enumerate(decoder.up_blocks):
        for i, resnet in enumerate(block.resnets):
            add(f"up.{number}.resnet.{i}", "resnet", "up", number, resnet)
        for sampler in block.upsamplers or ():
            add(f"up.{number}.sampler", "sampler", "up", number, sampler)
    add("out.conv", "conv", "out", 0, decoder.conv_out)
    return found


def record(vae: VAE, latent: Latent, device: TorchDevice, budget: int, dtype: torch.dtype | None = None) -> tuple[Image, ActivationCache]:
    """Decode, and keep what every block makes. Raises OverBudget where that is more than `budget` bytes."""
    with device.weights(vae.weights) as module:
        modules = dict(blocks(module))
        state = Recording(Record(budget, dtype=dtype, reserve=device.reserve), vae.weights, _by_name(modules), 1)
        state.size = (latent.x.shape[2], latent.x.shape[3])
        pixels = _decoded(vae, module, modules, state, latent, device)
    return pixels, replace(state.cache(), latent=latent.x.detach())


def decode(vae: VAE, latent: Latent, cache: ActivationCache, plan: Plan, device: TorchDevice) -> Image:
    """Decode anew what the plan's region holds; everywhere else the picture is the recorded one, bit for bit."""
    if cache.latent is None or cache.weights != vae.weights:
        raise ValueError("cache: one that this VAE made is wanted (Sparse VAE Cache), that of another network given")
    if cache.latent.shape != latent.x.shape:
        raise ValueError(f"samples: shape {tuple(cache.latent.shape)} is wanted as was recorded, {tuple(latent.x.shape)} given")
    with device.weights(vae.weights) as module:
        modules = dict(blocks(module))
        state = Editing(Sparse(cache, plan), _by_name(modules), plan.dense)
        state.layers = {} if plan.dense else {layer.name: layer for layer in cache.frames[0].layers}
        return _decoded(vae, module, modules, state, latent, device)


def changed(cache: ActivationCache, latent: Latent, threshold: float, dilate: int) -> Tensor:
    """The cells, bool [h, w], in which a latent differs from the recorded one by more than the threshold, grown by `dilate` cells."""
    assert cache.latent is not None
    apart = (latent.x.to(cache.latent) - cache.latent).abs() > threshold
    return dilated(mask_of(apart.any(1).any(0)), dilate)


def _by_name(modules: Mapping[Block, nn.Module]) -> dict[str, nn.Module]:
    return {block.name: module for block, module in modules.items()}


def _decoded(
    vae: VAE, module: nn.Module, modules: Mapping[Block, nn.Module], state: FeaturePatch, latent: Latent, device: TorchDevice
) -> Image:
    which = family(vae.weights.family)
    if latent.x.shape[1] != which.latent.channels:
        raise ValueError(f"samples: {which.latent.channels} channels are wanted by this VAE, {latent.x.shape[1]} given")
    with _through(modules, state, latent.x.shape[0]), torch.no_grad():
        x = which.decode(module, latent.x.to(device.torch, torch.float32))
    return Image(((x + 1) / 2).clamp(0, 1).movedim(1, -1).contiguous())


@contextmanager
def _through(modules: Mapping[Block, nn.Module], state: FeaturePatch, batch: int) -> Iterator[None]:
    now = (Rows((("picture", 0, batch),), batch), Moment(0, 1, 0.0, 0), (state,))
    with ExitStack() as stack:
        for block, module in modules.items():
            if state.at_block(block):
                stack.enter_context(tapped(module, block, lambda _: now))
        yield
