"""Imagic (Kawar et al. 2023): an embedding that describes a picture, a model tuned to paint it, and a walk towards the wanted text."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from diffusion.family import family
from diffusion.guidance import Conditional
from diffusion.lora.adapter import AdapterModule, Lora
from diffusion.lora.apply import apply_lora
from diffusion.session import Net, open_session
from diffusion.training import Trained, noise_loss, trained
from diffusion.values import Cond, Conditioning, Latent, Model
from graph_engine.errors import NodeError
from graph_engine.node import Node
from nodes.params import Seed, number

if TYPE_CHECKING:
    from graph_engine.context import Context

TheModel = Annotated[Model, Field(description="The model that is asked; it stays as it is.")]
OnePicture = Annotated[Latent, Field(description="The latent of the one picture.")]
Rate = Annotated[float, number(0, 1, 0.0001, "Learning rate of Adam.", round=0.000001)]
Draws = Annotated[int, number(1, 64, 1, "How many pairs of noise and level each step averages over.")]


def optimize_embedding(
    net: Net, entry: Cond, x0: Tensor, steps: int, rate: float, draws: int, lot: torch.Generator, ctx: Context
) -> tuple[Cond, list[float]]:
    """Stage A: the embedding near the target's under which the network best predicts the noise on x0 (section 3.2, eq. 2)."""
    embeds = entry.embeds.detach().to(net.device, torch.float32).clone().requires_grad_()
    pooled = None if entry.pooled is None else entry.pooled.detach().to(net.device, torch.float32).clone().requires_grad_()
    optimizer = torch.optim.Adam([each for each in (embeds, pooled) if each is not None], lr=rate)
    losses = []
    for i in range(steps):
        loss = noise_loss(net, Conditioning((replace(entry, embeds=embeds, pooled=pooled),)), x0, draws, lot)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        ctx.step(i, steps)
    return replace(entry, embeds=embeds.detach(), pooled=None if pooled is None else pooled.detach()), losses


def finetune(
    net: Net, entry: Cond, x0: Tensor, steps: int, rate: float, draws: int, rank: int, lot: torch.Generator, ctx: Context
) -> tuple[Lora, list[float]]:
    """Stage B: a change of the weights under which the optimised embedding gives x0 (section 3.2, second paragraph)."""
    losses = []
    with trained(net, rank, lot) as layers:
        optimizer = torch.optim.Adam([parameter for layer in layers for parameter in layer.parameters], lr=rate)
        for i in range(steps):
            loss = noise_loss(net, Conditioning((entry,)), x0, draws, lot)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            ctx.step(i, steps)
    return Lora("imagic", tuple(map(_module, layers))), losses


def _module(layer: Trained) -> AdapterModule:
    fields = {"up": layer.up, "down": layer.down, "diff": layer.full}
    tensors = tuple((name, tensor.detach().cpu()) for name, tensor in fields.items() if tensor is not None)
    return AdapterModule("unet", layer.name.replace(".", "_"), layer.name, tensors)


# node


class OptimizeEmbedding(Node, category="editing/imagic", title="Optimize Embedding", aliases=("imagic", "text inversion")):
    """Move a prompt's embedding to where it describes a picture: the first stage of Imagic (Kawar et al. 2023, section 3.2)."""

    model: TheModel
    latent: OnePicture
    conditioning: Annotated[Conditioning, Field(description="The prompt that says what the picture shall become; one entry.")]
    steps: Annotated[int, number(1, 10_000, 1, "Optimisation steps.")] = 100
    learning_rate: Rate = 0.001
    batch: Draws = 4
    seed: Seed = 0

    class Out(NamedTuple):
        conditioning: Annotated[Conditioning, Field(description="The optimised embedding.")]
        loss: Annotated[float, Field(description="The mean loss of the last tenth of the steps.")]

    def run(self, ctx: Context) -> Out:
        entry = _single(self.conditioning)
        guidance, x0 = Conditional(self.conditioning), _scaled(self.model, self.latent, ctx)
        with open_session(self.model, guidance, ctx.device, shape=x0.shape) as net, torch.enable_grad():
            lot = torch.Generator().manual_seed(self.seed)
            optimised, losses = optimize_embedding(net, entry, x0, self.steps, self.learning_rate, self.batch, lot, ctx)
        return self.Out(Conditioning((optimised,)), _last(losses))


class FinetuneOnImage(Node, category="editing/imagic", title="Fine-tune on Image", aliases=("imagic", "train")):
    """Tune a model so that an embedding gives one picture: the second stage of Imagic; the change is a LoRA, or a full difference."""

    model: TheModel
    latent: OnePicture
    conditioning: Annotated[Conditioning, Field(description="The optimised embedding; one entry.")]
    steps: Annotated[int, number(1, 10_000, 1, "Optimisation steps.")] = 150
    learning_rate: Rate = 0.001
    rank: Annotated[int, number(0, 256, 1, "Of the change of each attention layer; 0: full changes of all layers.")] = 8
    batch: Draws = 4
    seed: Seed = 0

    class Out(NamedTuple):
        model: Annotated[Model, Field(description="The model with the change.")]
        lora: Annotated[Lora, Field(description="The change alone, to apply with a strength or to save.")]
        loss: Annotated[float, Field(description="The mean loss of the last tenth of the steps.")]

    def run(self, ctx: Context) -> Out:
        entry = _single(self.conditioning)
        guidance, x0 = Conditional(self.conditioning), _scaled(self.model, self.latent, ctx)
        with open_session(self.model, guidance, ctx.device, shape=x0.shape) as net, torch.enable_grad():
            lot = torch.Generator().manual_seed(self.seed)
            lora, losses = finetune(net, entry, x0, self.steps, self.learning_rate, self.batch, self.rank, lot, ctx)
        model, _, _ = apply_lora(lora, self.model, None, 1.0, 0.0, ctx.device)
        assert model is not None
        return self.Out(model, lora, _last(losses))


class InterpolateEmbeddings(Node, category="editing/imagic", title="Interpolate Embeddings", aliases=("imagic", "lerp", "sweep")):
    """A list of embeddings η·target + (1 − η)·optimised for evenly spaced η (Kawar et al. 2023, eq. 3); what follows runs once for each."""

    target: Annotated[Conditioning, Field(description="Where η = 1 is: the wanted text; one entry.")]
    optimised: Annotated[Conditioning, Field(description="Where η = 0 is: the picture; one entry.")]
    first: Annotated[float, number(-1, 3, 0.05, "The first η.")] = 0.0
    last: Annotated[float, number(-1, 3, 0.05, "The last η; beyond 1 goes past the text.")] = 1.2
    count: Annotated[int, number(1, 64, 1, "How many; one alone is the last η.")] = 7

    def run(self, ctx: Context) -> list[Conditioning]:
        target, optimised = _single(self.target), _single(self.optimised)
        if target.embeds.shape != optimised.embeds.shape:
            shapes = f"{tuple(target.embeds.shape)} and {tuple(optimised.embeds.shape)}"
            raise NodeError(f"optimised: an embedding of the target's shape is wanted, {shapes} given")
        etas = torch.linspace(self.first, self.last, self.count).tolist() if self.count > 1 else [self.last]
        return [Conditioning((_between(target, optimised, eta),)) for eta in etas]


def _between(target: Cond, optimised: Cond, eta: float) -> Cond:
    def lerp(a: Tensor | None, b: Tensor | None) -> Tensor | None:
        return a if a is None or b is None else torch.lerp(b, a.to(b), eta)

    embeds = lerp(target.embeds, optimised.embeds)
    assert embeds is not None
    return replace(target, embeds=embeds, pooled=lerp(target.pooled, optimised.pooled), per_step=None)


def _single(conditioning: Conditioning) -> Cond:
    entries = tuple(conditioning)
    if len(entries) != 1:
        raise NodeError(f"conditioning: one entry is wanted, {len(entries)} given; encode a single prompt")
    return entries[0]


def _scaled(model: Model, latent: Latent, ctx: Context) -> Tensor:
    form = family(model.weights.family).latent
    if latent.x.shape[0] != 1:
        raise NodeError(f"latent: one picture is wanted, {latent.x.shape[0]} given")
    if latent.x.shape[1] != form.channels or latent.format not in (None, form.name):
        raise NodeError(
            f"latent: a {form.name} latent of {form.channels} channels is wanted, {latent.format or ''} with {latent.x.shape[1]} given"
        )
    return latent.x.to(ctx.device.torch, torch.float32) * form.scale


def _last(losses: list[float]) -> float:
    tail = losses[-max(1, len(losses) // 10) :]
    return sum(tail) / len(tail)
